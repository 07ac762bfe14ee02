//! Which commands make a network of namespaces, break it, and make it good again; nothing runs here.
//!
//! ```text
//! clients (this namespace) ── host ┐
//!                                  hub, forwards        each ── is a veth pair with a /30 of its own
//! node 1 (own namespace) ────── n1 ┤
//! node 2 (own namespace) ────── n2 ┘
//! ```
//!
//! All packets pass the hub. There a rule per direction and pair lets them vanish, and a queue per direction and pair
//! delays, loses and reorders them.

use std::fmt;
use std::time::Duration;

/// Where nodes serve clients and each other.
pub const NODE_PORT: u16 = 1992;
/// Where nodes serve their HTTP: no fault concerns it.
pub const ADMIN_PORT: u16 = 1996;
/// The class of the first sender in the queue of a link.
const FIRST_CLASS: usize = 16;
/// Packets that wait in a link that is too narrow; further ones are lost.
const NARROW_PACKETS: u32 = 64;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// This program.
    Clients,
    /// A node, by its place.
    Node(usize),
}

/// One direction between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender.
    pub from: Party,
    /// The receiver.
    pub to: Party,
}

/// What this kernel can do to packets besides dropping them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaper {
    /// netem: delay, jitter, loss and reordering.
    Netem,
    /// A narrow link: packets queue, and are lost when there are too many.
    Narrow,
    /// Nothing.
    Nothing,
}

/// How bad a link gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Of every packet.
    pub delay: Duration,
    /// Packets of a hundred that are lost.
    pub loss_percent: u32,
    /// Packets of a hundred that overtake others.
    pub reorder_percent: u32,
}

/// A command: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// `ip` or `tc`.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Order {
    fn ip(words: &str) -> Self {
        Self::new("ip", words)
    }

    fn tc(words: &str) -> Self {
        Self::new("tc", words)
    }

    fn new(program: &'static str, words: &str) -> Self {
        Self { program, arguments: words.split_whitespace().map(str::to_owned).collect() }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.arguments.join(" "))
    }
}

/// Names and addresses of one network.
#[derive(Clone, Debug)]
pub struct Plan {
    process: u32,
    subnet: (u8, u8),
    nodes: usize,
}

impl Plan {
    /// A network of so many nodes, named after this process; the `attempt` chooses other addresses.
    pub fn new(process: u32, attempt: u32, nodes: usize) -> Self {
        let number = process.wrapping_mul(31).wrapping_add(attempt.wrapping_mul(977));
        let subnet = (18 + (number / 256 % 2) as u8, (number % 256) as u8);
        Self { process, subnet, nodes }
    }

    /// The beginning of all its addresses.
    pub fn prefix(&self) -> String {
        format!("198.{}.{}.", self.subnet.0, self.subnet.1)
    }

    /// The namespace all packets pass.
    pub fn hub(&self) -> String {
        format!("lnc-chaos-{}-hub", self.process)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> String {
        format!("lnc-chaos-{}-{}", self.process, node + 1)
    }

    /// The one device in the namespace this program runs in.
    pub fn host_device(&self) -> String {
        format!("lnc{}h", self.process)
    }

    /// The hub's end of a link.
    fn device(party: Party) -> String {
        match party {
            Party::Clients => "host".to_owned(),
            Party::Node(node) => format!("n{}", node + 1),
        }
    }

    fn link(party: Party) -> usize {
        match party {
            Party::Clients => 0,
            Party::Node(node) => node + 1,
        }
    }

    /// Who is reached there.
    pub fn address(&self, party: Party) -> String {
        format!("{}{}", self.prefix(), 4 * Self::link(party) + 2)
    }

    fn gateway(&self, party: Party) -> String {
        format!("{}{}", self.prefix(), 4 * Self::link(party) + 1)
    }

    /// What makes it, each with what takes that back.
    pub fn make(&self) -> Vec<(Order, Option<Order>)> {
        let hub = self.hub();
        let namespace =
            |name: &str| (Order::ip(&format!("netns add {name}")), Some(Order::ip(&format!("netns del {name}"))));
        let plain = |words: String| (Order::ip(&words), None);
        let host = self.host_device();
        let (here, there) = (self.address(Party::Clients), self.gateway(Party::Clients));
        let mut orders = vec![
            namespace(&hub),
            (
                Order::ip(&format!("link add {host} type veth peer name host netns {hub}")),
                Some(Order::ip(&format!("link del {host}"))),
            ),
            plain(format!("addr add {here}/30 dev {host}")),
            plain(format!("link set dev {host} up")),
            plain(format!("-n {hub} addr add {there}/30 dev host")),
            plain(format!("-n {hub} link set dev host up")),
            plain(format!("route add {}0/24 via {there}", self.prefix())),
            plain(format!("netns exec {hub} sysctl -qw net.ipv4.ip_forward=1")),
        ];
        for node in 0..self.nodes {
            let (party, name) = (Party::Node(node), self.namespace(node));
            let (device, address, gateway) = (Self::device(party), self.address(party), self.gateway(party));
            orders.extend([
                namespace(&name),
                plain(format!("-n {hub} link add {device} type veth peer name eth0 netns {name}")),
                plain(format!("-n {hub} addr add {gateway}/30 dev {device}")),
                plain(format!("-n {hub} link set dev {device} up")),
                plain(format!("-n {name} addr add {address}/30 dev eth0")),
                plain(format!("-n {name} link set dev eth0 up")),
                plain(format!("-n {name} link set dev lo up")),
                plain(format!("-n {name} route add default via {gateway}")),
            ]);
        }
        orders
    }

    /// Lets packets vanish; no error tells their sender.
    pub fn drop(&self, preference: usize, flows: &[Flow]) -> Vec<Order> {
        let rule = |(number, flow): (usize, &Flow)| {
            let (from, to) = (self.address(flow.from), self.address(flow.to));
            let port = match (flow.from, flow.to) {
                (Party::Clients, _) => format!("ipproto tcp dport {NODE_PORT}"),
                (_, Party::Clients) => format!("ipproto tcp sport {NODE_PORT}"),
                _ => String::new(),
            };
            let (hub, preference) = (self.hub(), preference + number);
            Order::ip(&format!("-n {hub} rule add pref {preference} from {from} to {to} {port} blackhole"))
        };
        flows.iter().enumerate().map(rule).collect()
    }

    /// Ends what [`Plan::drop`] began.
    pub fn pass(&self, preference: usize, flows: &[Flow]) -> Vec<Order> {
        let rule = |number| Order::ip(&format!("-n {} rule del pref {}", self.hub(), preference + number));
        (0..flows.len()).map(rule).collect()
    }

    /// Makes links bad. Nothing else may shape the devices of these receivers meanwhile.
    pub fn shape(&self, shaper: Shaper, weather: Weather, flows: &[Flow]) -> Vec<Order> {
        let hub = self.hub();
        let mut orders = Vec::new();
        for device in receivers(flows) {
            orders.push(Order::tc(&format!("-n {hub} qdisc add dev {device} root handle 1: htb default 0")));
        }
        let delay_ms = u32::try_from(weather.delay.as_millis()).unwrap_or(u32::MAX).max(1);
        for flow in flows {
            let (device, number) = (Self::device(flow.to), Self::link(flow.from) + FIRST_CLASS);
            let (rate, queue) = match shaper {
                Shaper::Netem => {
                    let Weather { loss_percent, reorder_percent, .. } = weather;
                    let jitter = (delay_ms / 4).max(1);
                    let netem = format!(
                        "netem delay {delay_ms}ms {jitter}ms loss {loss_percent}% reorder {reorder_percent}% 50%"
                    );
                    ("10gbit".to_owned(), netem)
                }
                // As long a delay comes of the queue when it is used.
                _ => (format!("{}kbit", 100_000 / delay_ms), format!("pfifo limit {NARROW_PACKETS}")),
            };
            let source = self.address(flow.from);
            orders.extend([
                Order::tc(&format!("-n {hub} class add dev {device} parent 1: classid 1:{number} htb rate {rate}")),
                Order::tc(&format!("-n {hub} qdisc add dev {device} parent 1:{number} {queue}")),
                Order::tc(&format!(
                    "-n {hub} filter add dev {device} parent 1: protocol ip prio {number} u32 \
                     match ip src {source}/32 flowid 1:{number}"
                )),
            ]);
        }
        orders
    }

    /// Ends what [`Plan::shape`] began.
    pub fn calm(&self, flows: &[Flow]) -> Vec<Order> {
        let calm = |device| Order::tc(&format!("-n {} qdisc del dev {device} root", self.hub()));
        receivers(flows).into_iter().map(calm).collect()
    }
}

fn receivers(flows: &[Flow]) -> Vec<String> {
    let mut devices: Vec<String> = flows.iter().map(|flow| Plan::device(flow.to)).collect();
    devices.sort();
    devices.dedup();
    devices
}

/// Both directions between two.
pub fn between(one: Party, other: Party) -> [Flow; 2] {
    [Flow { from: one, to: other }, Flow { from: other, to: one }]
}

/// Everybody but one node, clients first.
pub fn others(nodes: usize, node: usize) -> impl Iterator<Item = Party> {
    let peers = (0..nodes).filter(move |other| *other != node).map(Party::Node);
    std::iter::once(Party::Clients).chain(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan { process: 77, subnet: (18, 9), nodes: 3 }
    }

    fn lines(orders: &[Order]) -> Vec<String> {
        orders.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whatever_is_made_outside_its_own_namespaces_is_taken_back_and_carries_the_process() {
        for (order, undo) in plan().make() {
            let words = &order.arguments;
            let own = words.iter().any(|word| word.contains("lnc-chaos-77-") || word.contains("lnc77h"));
            assert!(own || words.contains(&"198.18.9.0/24".to_owned()), "{order}");
            let makes = words.starts_with(&["netns".to_owned(), "add".to_owned()])
                || words.starts_with(&["link".to_owned(), "add".to_owned()]);
            assert_eq!(undo.is_some(), makes, "{order}");
        }
        assert!(plan().host_device().len() <= 15 && Plan::new(4_194_304, 0, 9).host_device().len() <= 15);
    }

    #[test]
    fn a_one_way_fault_names_one_direction_of_one_pair() {
        let flow = [Flow { from: Party::Node(0), to: Party::Node(2) }];
        assert_eq!(
            lines(&plan().drop(1000, &flow)),
            ["ip -n lnc-chaos-77-hub rule add pref 1000 from 198.18.9.6 to 198.18.9.14 blackhole"]
        );
        assert_eq!(lines(&plan().pass(1000, &flow)), ["ip -n lnc-chaos-77-hub rule del pref 1000"]);
    }

    #[test]
    fn clients_are_cut_off_from_the_port_of_clients_alone() {
        let flows = between(Party::Clients, Party::Node(1));
        assert_eq!(
            lines(&plan().drop(5, &flows)),
            [
                "ip -n lnc-chaos-77-hub rule add pref 5 from 198.18.9.2 to 198.18.9.10 ipproto tcp dport 1992 blackhole",
                "ip -n lnc-chaos-77-hub rule add pref 6 from 198.18.9.10 to 198.18.9.2 ipproto tcp sport 1992 blackhole",
            ]
        );
    }

    #[test]
    fn every_sender_has_a_queue_of_its_own_in_the_link_of_a_receiver() {
        let weather = Weather { delay: Duration::from_millis(40), loss_percent: 2, reorder_percent: 5 };
        let flows = [Party::Clients, Party::Node(1)].map(|from| Flow { from, to: Party::Node(0) });
        assert_eq!(
            lines(&plan().shape(Shaper::Netem, weather, &flows)),
            [
                "tc -n lnc-chaos-77-hub qdisc add dev n1 root handle 1: htb default 0",
                "tc -n lnc-chaos-77-hub class add dev n1 parent 1: classid 1:16 htb rate 10gbit",
                "tc -n lnc-chaos-77-hub qdisc add dev n1 parent 1:16 netem delay 40ms 10ms loss 2% reorder 5% 50%",
                "tc -n lnc-chaos-77-hub filter add dev n1 parent 1: protocol ip prio 16 u32 match ip src 198.18.9.2/32 \
                 flowid 1:16",
                "tc -n lnc-chaos-77-hub class add dev n1 parent 1: classid 1:18 htb rate 10gbit",
                "tc -n lnc-chaos-77-hub qdisc add dev n1 parent 1:18 netem delay 40ms 10ms loss 2% reorder 5% 50%",
                "tc -n lnc-chaos-77-hub filter add dev n1 parent 1: protocol ip prio 18 u32 match ip src 198.18.9.10/32 \
                 flowid 1:18",
            ]
        );
        let narrow = lines(&plan().shape(Shaper::Narrow, weather, &flows[..1]));
        assert!(narrow[1].ends_with("htb rate 2500kbit") && narrow[2].ends_with("pfifo limit 64"), "{narrow:?}");
        assert_eq!(lines(&plan().calm(&flows)), ["tc -n lnc-chaos-77-hub qdisc del dev n1 root"]);
    }

    #[test]
    fn runs_of_other_processes_have_other_addresses_and_a_second_attempt_too() {
        let prefixes: Vec<String> =
            [(1000, 0), (1001, 0), (1000, 1)].map(|(process, attempt)| Plan::new(process, attempt, 3).prefix()).into();
        assert!(prefixes[0] != prefixes[1] && prefixes[0] != prefixes[2] && prefixes[1] != prefixes[2]);
    }
}
