//! A namespace for each node, made by `ip`, broken by `ip` and `tc`, and gone when this is dropped.

use super::plan::{Flow, Order, Party, Plan, Shaper, Weather};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Other addresses are tried so often when some are in use.
const ATTEMPTS: u32 = 16;

/// The namespaces of one run.
#[derive(Debug)]
pub struct Namespaces {
    plan: Plan,
    shaper: Shaper,
    undo: Vec<Order>,
}

impl Namespaces {
    /// Makes them, or says why it cannot; then nothing is left.
    pub fn make(nodes: usize) -> Result<Self, String> {
        // SAFETY: a system call without arguments that cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Err("it takes root to make them".to_owned());
        }
        let used = output(&Order { program: "ip", arguments: ["-4", "-o", "addr"].map(str::to_owned).into() })?
            + &output(&Order { program: "ip", arguments: ["-4", "route"].map(str::to_owned).into() })?;
        let plans = (0..ATTEMPTS).map(|attempt| Plan::new(std::process::id(), attempt, nodes));
        let plan = plans.into_iter().find(|plan| !used.contains(&plan.prefix()));
        let plan = plan.ok_or_else(|| "no addresses are free".to_owned())?;
        let mut made = Self { plan, shaper: Shaper::Nothing, undo: Vec::new() };
        for (order, undo) in made.plan.make() {
            output(&order)?;
            made.undo.extend(undo);
        }
        made.shaper = made.find_shaper();
        Ok(made)
    }

    /// What the kernel has is known only once it was asked for it.
    fn find_shaper(&self) -> Shaper {
        let weather = Weather { delay: Duration::from_millis(5), loss_percent: 1, reorder_percent: 1 };
        let flow = [Flow { from: Party::Clients, to: Party::Node(0) }];
        for shaper in [Shaper::Netem, Shaper::Narrow] {
            let works = run(&self.plan.shape(shaper, weather, &flow)).is_ok();
            // Of a half-made queue the root is there already; of none at all nothing has to go.
            _ = run(&self.plan.calm(&flow));
            if works {
                return shaper;
            }
        }
        Shaper::Nothing
    }

    /// What can be done to packets.
    pub fn shaper(&self) -> Shaper {
        self.shaper
    }

    /// Names and addresses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Lets packets vanish.
    pub fn drop_packets(&self, preference: usize, flows: &[Flow]) -> Result<(), String> {
        run(&self.plan.drop(preference, flows))
    }

    /// Lets them pass again.
    pub fn pass_packets(&self, preference: usize, flows: &[Flow]) -> Result<(), String> {
        run(&self.plan.pass(preference, flows))
    }

    /// Makes links bad.
    pub fn shape(&self, weather: Weather, flows: &[Flow]) -> Result<(), String> {
        run(&self.plan.shape(self.shaper, weather, flows))
    }

    /// Makes them good again.
    pub fn calm(&self, flows: &[Flow]) -> Result<(), String> {
        run(&self.plan.calm(flows))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for order in self.undo.iter().rev() {
            if let Err(problem) = output(order) {
                eprintln!("lnc-chaos: a part of the network stays: {problem}");
            }
        }
    }
}

fn run(orders: &[Order]) -> Result<(), String> {
    orders.iter().try_for_each(|order| output(order).map(drop))
}

/// What a command printed, or why it failed.
fn output(order: &Order) -> Result<String, String> {
    // A key that interrupts this program is not to interrupt half of what it makes or removes.
    let ran = Command::new(order.program).args(&order.arguments).stdin(Stdio::null()).process_group(0).output();
    let ran = ran.map_err(|error| format!("{order}: {error}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(format!("{order}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::net::plan::between;
    use std::net::{SocketAddr, TcpStream};
    use std::path::Path;

    /// Without root there is nothing to try but the refusal.
    #[test]
    fn packets_vanish_one_way_and_come_back_and_nothing_is_left() {
        let made = match Namespaces::make(2) {
            Ok(made) => made,
            Err(reason) => {
                // SAFETY: it only answers a number.
                let may = unsafe { libc::geteuid() } == 0 && !reason.contains("not permitted");
                let is_there =
                    Command::new("ip").arg("-V").output().is_ok() && Command::new("tc").arg("-V").output().is_ok();
                return assert!(!(may && is_there), "{reason}");
            }
        };
        let plan = made.plan().clone();
        let left = |name: &str| Path::new("/var/run/netns").join(name).exists();
        assert!(left(&plan.hub()) && left(&plan.namespace(0)) && left(&plan.namespace(1)));
        // Nobody listens there: a refusal is an answer, silence is none.
        let to: SocketAddr = format!("{}:1992", plan.address(Party::Node(0))).parse().unwrap();
        let answer = || TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err().kind();
        assert_eq!(answer(), std::io::ErrorKind::ConnectionRefused);
        for flow in between(Party::Clients, Party::Node(0)) {
            made.drop_packets(1_000, &[flow]).unwrap();
            assert_eq!(answer(), std::io::ErrorKind::TimedOut, "{flow:?}");
            made.pass_packets(1_000, &[flow]).unwrap();
            assert_eq!(answer(), std::io::ErrorKind::ConnectionRefused, "{flow:?}");
        }
        let host = plan.host_device();
        drop(made);
        assert!(!left(&plan.hub()) && !left(&plan.namespace(0)) && !left(&plan.namespace(1)));
        assert!(!Path::new("/sys/class/net").join(host).exists());
    }
}
