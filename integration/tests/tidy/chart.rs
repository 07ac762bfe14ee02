//! The README's actor chart against the constants in `actors`: `…_MAILBOX: usize = N` in code is `…Actor [N]` on the
//! chart, and `…_MAILBOX_SPARE: usize = N` is `…Actor [requests + N]`: room for every reply, and N messages more.

use std::collections::BTreeMap;

/// Mailbox capacity of each actor: the constant that its `supervised_shell!` names, or its own `…_MAILBOX`.
pub fn capacities<'a>(files: impl Iterator<Item = (&'a str, String)>) -> BTreeMap<String, String> {
    let codes: Vec<String> = files.map(|(_, code)| code).collect();
    let mut constants: BTreeMap<String, String> = BTreeMap::new();
    let mut actors: BTreeMap<String, String> = BTreeMap::new();
    for code in &codes {
        let declares = |line: &&str| line.contains("_MAILBOX: usize = ") || line.contains("_MAILBOX_SPARE: usize = ");
        for line in code.lines().filter(declares) {
            let name = line.split("const ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
            let text = line.split("= ").nth(1).unwrap_or_default().replace(';', "");
            let number = value(&text, &codes).unwrap_or_else(|| panic!("no number: {line}"));
            match name.strip_suffix("_SPARE") {
                Some(name) => constants.insert(name.to_owned(), format!("requests + {number}")),
                None => constants.insert(name.to_owned(), number.to_string()),
            };
        }
        for call in code.split("supervised_shell!(").skip(1) {
            let mut parts = call.split([',', ')']).map(str::trim);
            if let (Some(actor), Some(constant)) = (parts.next(), parts.next()) {
                actors.insert(constant.to_owned(), actor.split('<').next().unwrap_or(actor).to_owned());
            }
        }
    }
    let actor_of = |constant: &str| actors.get(constant).cloned().unwrap_or_else(|| actor_name(constant));
    constants.into_iter().map(|(constant, number)| (actor_of(&constant), number)).collect()
}

/// The value of a sum of products, such as `2 * a::NAME + 64`; a name is a constant of one of the files.
fn value(expression: &str, codes: &[String]) -> Option<usize> {
    let constant = |path: &str| {
        let declaration = format!("const {}: usize = ", path.rsplit("::").next()?);
        let after = codes.iter().find_map(|code| Some(code.split_once(&declaration)?.1))?;
        value(after.split(';').next()?, codes)
    };
    let factor = |factor: &str| factor.replace('_', "").parse::<usize>().ok().or_else(|| constant(factor));
    let product = |term: &str| term.split('*').map(|part| factor(part.trim())).product::<Option<usize>>();
    expression.split('+').map(product).sum()
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
pub fn differences(readme: &str, capacities: &BTreeMap<String, String>) -> Vec<String> {
    let shown: BTreeMap<String, String> = readme.lines().filter_map(shown_on).collect();
    let wrong = capacities.iter().filter(|(actor, capacity)| shown.get(*actor) != Some(capacity));
    let wrong = wrong.map(|(actor, capacity)| match shown.get(actor) {
        Some(other) => format!("{actor} has {capacity}, the chart says {other}"),
        None => format!("{actor} [{capacity}] is not on the chart"),
    });
    let gone = shown.keys().filter(|actor| !capacities.contains_key(*actor));
    wrong.chain(gone.map(|actor| format!("{actor} is on the chart and has no such constant"))).collect()
}

/// The actor and number of one line of the chart: `├── PollerActor × shards [1024]`.
fn shown_on(line: &str) -> Option<(String, String)> {
    let start = line.find(|c: char| c.is_ascii_uppercase())?;
    let actor: String = line[start..].chars().take_while(char::is_ascii_alphanumeric).collect();
    let on_chart = line[..start].chars().all(|c| "├└│─ ".contains(c));
    let open = line.find('[').filter(|_| on_chart)?;
    let number = line[open + 1..].split(']').next()?.to_owned();
    (actor.ends_with("Actor") || actor.ends_with("Supervisor")).then_some((actor, number))
}
