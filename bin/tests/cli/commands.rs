//! Command lines as people write them: taken apart like a shell does, and held against what our programs take.

use clap::CommandFactory as _;
use lance_bin::bench::args::BenchCli;
use lance_bin::chaos::args::ChaosCli;
use lance_bin::cli::args::Cli;
use lance_bin::server_args::ServerCli;

/// Everything that our programs take.
pub fn programs() -> [clap::Command; 4] {
    [ServerCli::command(), Cli::command(), BenchCli::command(), ChaosCli::command()]
}

/// Whether the program of a command line takes its arguments; what it says where it does not.
pub fn parse(words: &[String]) -> Result<(), String> {
    let program = programs().into_iter().find(|program| program.get_name() == words[0]);
    let program = program.ok_or_else(|| format!("{words:?}: no program of ours"))?;
    program.try_get_matches_from(words).map(drop).map_err(|error| format!("{words:?}: {error}"))
}

/// Whether the subcommands and flags of a mention, as in `lnc topic alter --mode`, are there; what is not. Other words stand
/// for something.
pub fn find_names(words: &[&str]) -> Result<(), String> {
    let program = programs().into_iter().find(|program| program.get_name() == words[0]);
    let mut command = program.ok_or_else(|| format!("{words:?}: no program of ours"))?;
    let mut flags = vec!["help".to_owned(), "version".to_owned()];
    let mut is_name = true;
    for word in &words[1..] {
        flags.extend(command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)));
        if let Some(flag) = word.strip_prefix("--") {
            // What follows is its value.
            is_name = false;
            if !flags.iter().any(|known| known == flag) {
                return Err(format!("{words:?}: there is no flag --{flag}"));
            }
        } else if is_name && command.has_subcommands() && word.chars().next().is_some_and(char::is_lowercase) {
            let alternatives: Vec<&str> = word.split('|').map(|name| name.trim_end_matches('\\')).collect();
            let missing = alternatives.iter().find(|name| command.find_subcommand(name).is_none());
            if let Some(name) = missing {
                return Err(format!("{words:?}: there is no subcommand {name}"));
            }
            if let [name] = alternatives[..] {
                command = command.find_subcommand(name).cloned().unwrap();
            }
        }
    }
    Ok(())
}

/// The command lines of our programs in a script: their words, that of the program first.
pub fn commands_of(script: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in script.replace("\\\n", " ").lines() {
        commands.extend(commands_in(line).into_iter().filter_map(of_our_program));
    }
    commands
}

/// The words from the name of a program of ours on, without `sudo`, variables and cargo before it.
fn of_our_program(words: Vec<String>) -> Option<Vec<String>> {
    let is_ours = |word: &String| programs().iter().any(|program| program.get_name() == word);
    let is_before = |word: &String| word == "sudo" || word == "$" || word.contains('=');
    let mut rest: Vec<String> = words.into_iter().skip_while(is_before).collect();
    if rest.starts_with(&["cargo".to_owned(), "run".to_owned()]) {
        let program = rest.iter().position(|word| word == "--bin")? + 1;
        let arguments = rest.iter().position(|word| word == "--").map_or(rest.len(), |at| at + 1);
        rest = [&rest[program..=program], &rest[arguments..]].concat();
    }
    rest.first().is_some_and(is_ours).then_some(rest)
}

/// The commands of a line: their words, without quotes, redirections and comments.
fn commands_in(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut depth = 0;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(letter);
            }
            // What a `$(…)` prints is one word.
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) if depth > 0 => {}
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&') => {
                end_word(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            (None, _) if letter.is_whitespace() => end_word(&mut commands, &mut word),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    end_word(&mut commands, &mut word);
    commands.into_iter().map(without_redirections).filter(|words| !words.is_empty()).collect()
}

fn end_word(commands: &mut [Vec<String>], word: &mut Option<String>) {
    if let (Some(command), Some(word)) = (commands.last_mut(), word.take()) {
        command.push(word);
    }
}

fn without_redirections(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "<" | ">" | ">>" | "2>" => drop(words.next()),
            _ if word.starts_with(['<', '>']) => {}
            _ => kept.push(word),
        }
    }
    kept
}

#[test]
fn command_lines_are_taken_apart_as_a_shell_does() {
    let script = "\
# lnc is not run here
seq 1 9 | A=1 sudo lnc produce --topic 'a b' \\
  --data \"{'x': 1}\" > out 2> err   # lnc
cargo run --release --bin lnc -- topic list && lance --set a.b=$(openssl rand -hex 32) &
echo lnc";
    let expected: [&[&str]; 3] = [
        &["lnc", "produce", "--topic", "a b", "--data", "{'x': 1}"],
        &["lnc", "topic", "list"],
        &["lance", "--set", "a.b=$"],
    ];
    assert_eq!(commands_of(script), expected);
}
