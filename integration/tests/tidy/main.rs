//! The rules of the house, held against the source: what a compiler does not check and a reader would have to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod chart;
mod manifest;
mod source;

use std::collections::BTreeMap;

use manifest::{Manifest, manifest, members, toml_file};
use source::{Source, blank_literals, files, functions, is_word, relative, root, sources};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 100;

/// Which crate of ours may know which; `integration` tests them all and nothing depends on it.
const EDGES: &[(&str, &[&str])] = &[
    ("messages", &[]),
    ("config", &[]),
    ("storage", &["messages"]),
    ("cluster", &["messages"]),
    ("client", &["messages"]),
    ("actors", &["storage", "cluster", "config", "messages"]),
    ("bin", &["actors", "client", "config"]),
    ("integration", &["actors", "client", "cluster", "config", "messages", "storage"]),
];

/// Everything `cluster` may name: nothing of it can do I/O.
const CLUSTER_MAY_NAME: &[&str] =
    &["lance-messages", "raft", "protobuf", "slog", "serde", "bincode", "thiserror", "bytes", "proptest"];

/// Fails with one line for each finding.
fn assert_none(what: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

#[test]
fn crates_know_only_the_crates_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut findings = Vec::new();
    for folder in members() {
        let Some(may_name) = allowed.get(folder.as_str()) else {
            findings.push(format!("{folder} is not in the table of crates"));
            continue;
        };
        let Manifest { folder, dependencies, dev_dependencies } = manifest(&folder);
        for name in dependencies.iter().chain(&dev_dependencies) {
            if let Some(ours) = name.strip_prefix("lance-").filter(|ours| !may_name.contains(ours)) {
                findings.push(format!("{folder} → {ours}"));
            }
        }
    }
    assert_none("edges that architecture does not have", findings);
}

#[test]
fn cluster_names_nothing_that_can_do_io() {
    let Manifest { dependencies, dev_dependencies, .. } = manifest("cluster");
    let others = dependencies.into_iter().chain(dev_dependencies);
    assert_none("cluster names", others.filter(|name| !CLUSTER_MAY_NAME.contains(&name.as_str())).collect());
}

#[test]
fn only_who_exports_or_instruments_names_opentelemetry() {
    for folder in ["messages", "storage", "cluster", "config"] {
        let Manifest { dependencies, dev_dependencies, .. } = manifest(folder);
        let named: Vec<String> = dependencies.into_iter().chain(dev_dependencies).collect();
        assert!(!named.iter().any(|name| name.contains("opentelemetry")), "{folder} names {named:?}");
    }
}

#[test]
fn the_client_runs_on_every_platform() {
    let names = manifest("client").dependencies;
    for name in ["actix", "actix-rt", "io-uring", "tokio-uring", "libc"] {
        assert!(!names.contains(name), "client names {name}");
    }
}

#[test]
fn files_and_functions_stay_short() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            findings.push(format!("{}: {lines} lines, allowed are {FILE_LINES}", source.path));
        }
        for (name, line, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES {
                let path = &source.path;
                findings.push(format!("{path}:{line}: fn {name} has {lines} lines, allowed are {FUNCTION_LINES}"));
            }
        }
    }
    assert_none("too long", findings);
}

#[test]
fn every_module_starts_by_saying_what_it_is() {
    let begins = |source: &Source| source.text.starts_with("//!") || source.text.starts_with("#![doc = include_str!");
    let silent = sources().into_iter().filter(|source| !begins(source)).map(|source| source.path);
    assert_none("no module documentation", silent.collect());
}

#[test]
fn every_library_is_documented_by_its_readme() {
    let mut findings = Vec::new();
    for folder in ["messages", "storage", "cluster", "config", "actors", "client"] {
        let root = root().join(folder);
        let lib = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
        if !root.join("README.md").exists() || !lib.contains("#![doc = include_str!(\"../README.md\")]") {
            findings.push(folder.to_owned());
        }
    }
    assert_none("no README.md, or one that is not the crate's documentation", findings);
}

#[test]
fn nothing_is_left_over() {
    // Put together from halves, so that this file does not find itself.
    let in_text = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO"), concat!("HA", "CK")];
    let in_code = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("allow(dead", "_code)"),
        concat!("allow(un", "used"),
        concat!("#[ig", "nore"),
    ];
    let mut findings = Vec::new();
    for source in sources() {
        let mut look = |text: &str, marker: &str, whole_word: bool| {
            for (at, _) in text.match_indices(marker) {
                if !whole_word || is_word(text, at, marker) {
                    let line = 1 + text[..at].matches('\n').count();
                    findings.push(format!("{}:{line}: {marker}", source.path));
                }
            }
        };
        in_text.iter().for_each(|marker| look(&source.text, marker, true));
        in_code.iter().for_each(|marker| look(&source.code, marker, false));
    }
    assert_none("left over", findings);
}

/// Lines of production code below `folders` with one of `words`, outside the `allowed` paths.
fn uses(folders: &[&str], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let below = |path: &str, places: &[&str]| places.iter().any(|place| path.starts_with(place));
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| below(&source.path, folders) && !below(&source.path, allowed)) {
        for (number, line) in source.production_code().lines().enumerate() {
            let hit = words.iter().find(|word| line.match_indices(**word).any(|(at, _)| is_word(line, at, word)));
            if let Some(word) = hit {
                findings.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    findings
}

#[test]
fn only_the_disk_opens_files() {
    let words = ["std::fs", "fs::File", "File::open", "File::create", "OpenOptions", "tokio::fs", "libc::open"];
    let allowed = [
        "storage/src/disk/",
        // The configuration file, the host's name, and sysfs: read before there is a disk.
        "config/src/layers.rs",
        "config/src/machine.rs",
        // Memory nodes and interrupts, in sysfs and /proc.
        "actors/src/numa/sysfs.rs",
        "actors/src/numa/irq.rs",
        // Counters of this process in /proc.
        "actors/src/metrics/",
        "actors/src/metrics.rs",
        // An application keeps its offsets in a file of its own.
        "client/src/offsets/file.rs",
    ];
    let folders = ["messages/", "storage/", "cluster/", "config/", "actors/", "client/"];
    assert_none("opens files", uses(&folders, &words, &allowed));
}

#[test]
fn the_data_path_takes_no_lock() {
    let words = ["Mutex", "RwLock", "Condvar", "parking_lot"];
    let folders = ["messages/", "storage/", "cluster/", "actors/"];
    // A disk that lives in memory is one for tests and the simulator; nothing there is a hot path.
    let allowed = ["storage/src/disk/memory/"];
    assert_none("takes a lock", uses(&folders, &words, &allowed));
}

#[test]
fn cores_have_no_clock_thread_socket_or_randomness() {
    let words = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "std::net",
        "std::fs",
        "tokio",
        "actix",
        "rand",
        "tracing",
        "opentelemetry",
        "prometheus_client",
    ];
    let is_core = |path: &String| {
        path.starts_with("cluster/src/")
            || path.starts_with("actors/src/network/session/")
            || path.starts_with("actors/src/stages/")
            || path.starts_with("actors/") && (path.ends_with("/core.rs") || path.contains("/core/"))
    };
    let cores: Vec<String> = sources().into_iter().map(|source| source.path).filter(is_core).collect();
    assert!(cores.iter().any(|path| path.starts_with("actors/")), "no core was found: the rule looks at nothing");
    let cores: Vec<&str> = cores.iter().map(String::as_str).collect();
    assert_none("a core that is not pure", uses(&cores, &words, &[]));
}

#[test]
fn every_message_has_a_sender_and_a_handler() {
    let sources = sources();
    let actors: Vec<String> = sources
        .iter()
        .filter(|source| source.path.starts_with("actors/src/"))
        .map(|source| without_imports(&source.production_code()))
        .collect();
    let mut findings = Vec::new();
    for source in &sources {
        if !source.path.starts_with("messages/src/mail/") && !source.path.starts_with("actors/src/") {
            continue;
        }
        for message in messages(&source.production_code()) {
            let place = format!("{}: {message}", source.path);
            if !actors.iter().any(|code| code.lines().any(|line| is_handler(line, &message))) {
                findings.push(format!("{place} has no handler"));
            }
            if !actors.iter().any(|code| is_made(code, &message)) {
                findings.push(format!("{place} is never sent"));
            }
        }
    }
    assert_none("messages", findings);
}

/// Names of the types that derive or implement actix's `Message`.
fn messages(code: &str) -> Vec<String> {
    let name_of = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let derived = code.split("rtype(").skip(1).filter_map(|after| {
        let item = after.find("pub struct ").map(|at| at + 11).or_else(|| after.find("struct ").map(|at| at + 7))?;
        Some(name_of(&after[item..]))
    });
    let written = code.split("Message for ").skip(1).map(name_of);
    derived.chain(written).collect()
}

fn is_handler(line: &str, message: &str) -> bool {
    line.split_once("Handler<")
        .is_some_and(|(_, rest)| rest.match_indices(message).any(|(at, _)| is_word(rest, at, message)))
}

/// True where `code` makes the message: its name, followed by its fields or an end, where a value stands.
fn is_made(code: &str, message: &str) -> bool {
    code.match_indices(message).filter(|(at, _)| is_word(code, *at, message)).any(|(at, _)| {
        let path_start = code[..at].trim_end_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ':').len();
        let before = code[..path_start].trim_end();
        let after = code[at + message.len()..].trim_start();
        let is_value = ["(", "=", "=>", "{", "}", ",", ";", "|", "return"].iter().any(|end| before.ends_with(end));
        is_value && ["{", "(", ")", ",", ";", "::"].iter().any(|next| after.starts_with(next))
    })
}

/// The code without its `use` declarations.
fn without_imports(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut in_use = false;
    for line in code.lines() {
        in_use |= ["use ", "pub use ", "pub(crate) use "].iter().any(|word| line.trim_start().starts_with(word));
        if !in_use {
            kept.push_str(line);
        }
        kept.push('\n');
        in_use &= !line.trim_end().ends_with(';');
    }
    kept
}

#[test]
fn every_configuration_key_reaches_the_node() {
    let sources = sources();
    let codes: Vec<String> = sources
        .iter()
        .filter(|source| source.path.starts_with("actors/src/") || source.path.starts_with("bin/src/"))
        .map(Source::production_code)
        .collect();
    // By section and name: names alone, as `enabled`, are those of several keys.
    let is_read = |section: &str, field: &str| {
        let access = format!("{section}.{field}");
        let is_whole = |code: &String, at: usize| is_word(code, at, &access);
        codes.iter().any(|code| code.match_indices(&access).any(|(at, _)| is_whole(code, at)))
    };
    let mut findings = Vec::new();
    for key in lance_config::keys::KEYS {
        let name = key.short_name();
        let field = name.strip_suffix("_ms").or(name.strip_suffix("_secs")).unwrap_or(name);
        if !is_read(key.section(), field) {
            findings.push(key.name.to_owned());
        }
    }
    assert_none("keys that nothing reads", findings);
}

#[test]
fn every_toml_file_parses() {
    let found: Vec<String> = files(&root(), &["toml"]).iter().map(|path| relative(path)).collect();
    assert!(found.len() > 10, "{found:?}");
    found.iter().for_each(|path| drop(toml_file(path)));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for path in files(&root(), &["md"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for (_, rest) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            let is_path = target.contains('.') || target.contains('/');
            if !elsewhere && is_path && !path.parent().unwrap().join(target).exists() {
                findings.push(format!("{}: {target}", relative(&path)));
            }
        }
    }
    assert_none("dead links", findings);
}

#[test]
fn the_chart_in_the_readme_shows_the_mailboxes_as_they_are() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let actors = sources();
    let actors = actors.iter().filter(|source| source.path.starts_with("actors/src/"));
    let constants = chart::capacities(actors.map(|source| (source.path.as_str(), source.production_code())));
    assert!(!constants.is_empty(), "no mailbox capacity was found in actors");
    assert_none("the README's chart", chart::differences(&readme, &constants));
}

#[test]
fn made_messages_are_told_from_named_ones() {
    for made in ["send(Drain)", "x = mail::Stop { a: 1 };", "if let Err(e) = a.try_send(Replies { b }) {", "(Go(1), 2)"]
    {
        assert!(["Drain", "Stop", "Replies", "Go"].iter().any(|message| is_made(made, message)), "{made}");
    }
    for named in
        ["impl Handler<Drain> for A {", "fn handle(&mut self, m: Drain, c: C)", "let Drain { a } = m;", "Drainer(1)"]
    {
        assert!(!is_made(named, "Drain"), "{named}");
    }
    assert_eq!(without_imports("use a::{\n  B,\n};\nfn c() {}\n"), "\n\n\nfn c() {}\n");
}

#[test]
fn literals_and_tests_are_told_from_code() {
    let text = "let a = \"print!(\"; // fn long() {\nlet b = r#\"\"{\"#; let c = '{'; let d: &'a str = \"\\\"}\";\n";
    let code = blank_literals(text);
    assert!(!code.contains('{') && !code.contains('}') && !code.contains("fn"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    let source = Source {
        path: "x.rs".to_owned(),
        text: String::new(),
        code: "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {\n}\n".to_owned(),
        is_test: false,
    };
    assert_eq!(functions(&source.production_code()), [("a".to_owned(), 1, 1), ("c".to_owned(), 6, 2)]);
}
