//! Arguments, exit codes and help: without a server.

use crate::server::{Ran, free_address, run};

fn lnc(arguments: &[&str]) -> Ran {
    run(env!("CARGO_BIN_EXE_lnc"), arguments, None, "")
}

#[test]
fn wrong_arguments_end_with_code_2() {
    for arguments in [
        &["nonsense"][..],
        &["produce"],
        &["consume", "--topic", "t", "--offset", "soon"],
        &["consume", "--topic", "t", "--format", "%q"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--retention-age", "soon"],
        &["produce", "--topic", "t", "--data", "x", "--server", "nowhere"],
        &["topic", "list", "--tls-ca", "ca.pem"],
    ] {
        let ran = lnc(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(!ran.err.is_empty() && ran.out.is_empty());
    }
}

#[test]
fn no_server_is_a_failure_that_names_it() {
    let address = free_address();
    let ran = lnc(&["topic", "list", "--server", &address]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains(&address) && ran.err.contains("is the server running?"), "{}", ran.err);
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands: [&[&str]; 17] = [
        &[],
        &["produce"],
        &["consume"],
        &["completions"],
        &["topic", "create"],
        &["topic", "list"],
        &["topic", "describe"],
        &["topic", "alter"],
        &["topic", "set-retention"],
        &["topic", "delete"],
        &["log", "inspect"],
        &["log", "verify"],
        &["backup"],
        &["backup", "verify"],
        &["restore"],
        &["cluster", "maintenance"],
        &["cluster", "resume"],
    ];
    for command in commands {
        let help = lnc(&[command, &["--help"]].concat()).ok();
        assert!(help.contains("Example") && help.contains("lnc "), "{command:?}: {help}");
    }
    for command in ["produce", "consume", "end-to-end", "floors"] {
        let help = run(env!("CARGO_BIN_EXE_lnc-bench"), &[command, "--help"], None, "").ok();
        assert!(help.contains("Usage"), "{command}");
    }
}

#[test]
fn common_flags_may_follow_the_subcommand() {
    let help = lnc(&["produce", "--help"]).ok();
    for flag in ["--server", "--output", "--tls-ca", "--tls-cert", "--tls-key", "--token"] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(lnc(&["completions", shell]).ok().contains("produce"));
    }
}
