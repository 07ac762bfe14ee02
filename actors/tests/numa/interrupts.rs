//! Steering the card's interrupts, with made-up folders in place of `/sys` and `/proc`.

use crate::machine::write;
use lance_actors::numa::irq::{Roots, steer};

const CARD: &str = "0000:3b:00.0";

#[test]
fn interrupts_of_the_card_and_no_others_are_steered() {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots { sys: folder.path().join("sys"), proc: folder.path().join("proc") };
    for number in [31, 7, 40] {
        write(&roots.sys.join(format!("bus/pci/devices/{CARD}/msi_irqs/{number}")), "msix\n");
    }
    // 40 has no file to write to, and 8 belongs to another device.
    for number in [31, 7, 8] {
        write(&roots.proc.join(format!("irq/{number}/smp_affinity_list")), "0-15");
    }
    let steered = steer(&roots, CARD, "8-15").unwrap();
    let outcome: Vec<(u32, bool)> = steered.iter().map(|(number, result)| (*number, result.is_ok())).collect();
    assert_eq!(outcome, [(7, true), (31, true), (40, false)]);
    let list = |number: u32| std::fs::read_to_string(roots.proc.join(format!("irq/{number}/smp_affinity_list"))).ok();
    assert!(list(7).unwrap().starts_with("8-15") && list(31).unwrap().starts_with("8-15"));
    assert_eq!((list(8).as_deref(), list(40)), (Some("0-15"), None));
}

#[test]
fn a_card_without_a_list_of_interrupts_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots { sys: folder.path().into(), proc: folder.path().into() };
    assert_eq!(steer(&roots, CARD, "0").unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
