//! Arguments, exit codes and help: without a server.

use crate::commands::{commands_of, parse, programs};
use crate::server::{Ran, free_address, run};
use clap::Command;

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

/// Calls `look` with every command that can be given as it is, and with what is typed for it.
fn each_command(name: &str, command: &Command, look: &mut impl FnMut(&str, &Command)) {
    if !command.is_subcommand_required_set() {
        look(name, command);
    }
    for subcommand in command.get_subcommands() {
        each_command(&format!("{name} {}", subcommand.get_name()), subcommand, look);
    }
}

#[test]
fn every_command_of_every_program_has_help_with_examples_that_parse_and_a_word_on_every_argument() {
    let (mut findings, mut count) = (Vec::new(), 0);
    for program in programs() {
        each_command(program.get_name(), &program, &mut |name, command| {
            count += 1;
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = help.lines().filter(|line| line.starts_with("  ")).collect();
            let given = commands_of(&lines.join("\n"));
            if !help.starts_with("Example") || !given.iter().any(|words| words.join(" ").starts_with(name)) {
                findings.push(format!("{name}: no example"));
            }
            findings.extend(given.iter().filter_map(|words| parse(words).err()));
            if command.get_about().is_none() {
                findings.push(format!("{name}: no word on what it does"));
            }
            let silent = command.get_arguments().filter(|argument| argument.get_help().is_none());
            findings.extend(silent.map(|argument| format!("{name}: no help for {}", argument.get_id())));
        });
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(count > 35, "only {count} commands were found");
}

#[test]
fn help_is_printed_with_its_examples() {
    for command in [&[][..], &["produce"], &["topic", "create"], &["backup", "verify"], &["cluster", "resume"]] {
        let help = lnc(&[command, &["--help"]].concat()).ok();
        assert!(help.contains("Example") && help.contains("lnc "), "{command:?}: {help}");
    }
    let help = run(env!("CARGO_BIN_EXE_lnc-bench"), &["floors", "--help"], None, "").ok();
    assert!(help.contains("lnc-bench floors --floor-dir"), "{help}");
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
