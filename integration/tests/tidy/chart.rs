//! The README's actor chart against the constants in `actors`: `…_MAILBOX: usize = N` in code, `…Actor [N]` on the chart.

use std::collections::BTreeMap;

/// Mailbox capacity of each actor: the constant that its `supervised_shell!` names, or its own `…_MAILBOX`.
pub fn capacities<'a>(files: impl Iterator<Item = (&'a str, String)>) -> BTreeMap<String, usize> {
    let codes: Vec<String> = files.map(|(_, code)| code).collect();
    let mut constants: BTreeMap<String, usize> = BTreeMap::new();
    let mut actors: BTreeMap<String, String> = BTreeMap::new();
    for code in &codes {
        for line in code.lines().filter(|line| line.contains("_MAILBOX: usize = ")) {
            let name = line
                .split("const ")
                .nth(1)
                .and_then(|rest| rest.split(':').next())
                .unwrap_or_default();
            let value = line.split("= ").nth(1).unwrap_or_default().replace([';', '_'], "");
            let value = value
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("a mailbox is a plain number: {line}"));
            constants.insert(name.to_owned(), value);
        }
        for call in code.split("supervised_shell!(").skip(1) {
            let mut parts = call.split([',', ')']).map(str::trim);
            if let (Some(actor), Some(constant)) = (parts.next(), parts.next()) {
                actors.insert(constant.to_owned(), actor.split('<').next().unwrap_or(actor).to_owned());
            }
        }
    }
    let actor_of = |constant: &str| actors.get(constant).cloned().unwrap_or_else(|| actor_name(constant));
    constants
        .into_iter()
        .map(|(constant, value)| (actor_of(&constant), value))
        .collect()
}

/// `CONNECTION_MAILBOX` → `ConnectionActor`.
fn actor_name(constant: &str) -> String {
    let words = constant.trim_end_matches("_MAILBOX").split('_').map(|word| {
        let (first, rest) = word.split_at(1.min(word.len()));
        format!("{first}{}", rest.to_lowercase())
    });
    format!("{}Actor", words.collect::<String>())
}

/// Actors that the chart lacks, shows with another number, or shows though they don't exist.
pub fn differences(readme: &str, capacities: &BTreeMap<String, usize>) -> Vec<String> {
    let shown: BTreeMap<String, usize> = readme.lines().filter_map(shown_on).collect();
    let wrong = capacities
        .iter()
        .filter(|(actor, capacity)| shown.get(*actor) != Some(capacity));
    let wrong = wrong.map(|(actor, capacity)| match shown.get(actor) {
        Some(other) => format!("{actor} has {capacity}, the chart says {other}"),
        None => format!("{actor} [{capacity}] is not on the chart"),
    });
    let gone = shown.keys().filter(|actor| !capacities.contains_key(*actor));
    wrong
        .chain(gone.map(|actor| format!("{actor} is on the chart and has no such constant")))
        .collect()
}

/// The actor and number of one line of the chart: `├── PollerActor × shards [1024]`.
fn shown_on(line: &str) -> Option<(String, usize)> {
    let start = line.find(|c: char| c.is_ascii_uppercase())?;
    let actor: String = line[start..].chars().take_while(char::is_ascii_alphanumeric).collect();
    let open = line.find('[')?;
    let number = line[open + 1..].split(']').next()?.parse().ok()?;
    (actor.ends_with("Actor") || actor.ends_with("Supervisor")).then_some((actor, number))
}
