//! The README's reference lists exactly the keys there are.

use std::fmt::Write as _;
use std::path::Path;

use lance_config::keys::{KEYS, sections};

const MARK: &str = "<!-- keys:";

fn reference() -> String {
    let mut text = String::new();
    for section in sections() {
        let _ = write!(text, "\n### `[{section}]`\n\n| key | default | takes | meaning |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.section() == section) {
            let (name, default) = (key.short_name(), key.default_text());
            let allowed = key.rule.allowed().replace('|', "\\|").replace('[', "\\[");
            let _ = writeln!(text, "| `{name}` | `{default}` | {allowed} | {} |", key.doc);
        }
    }
    text
}

#[test]
fn the_readme_lists_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let mark = readme.find(MARK).unwrap();
    let head_end = mark + readme[mark..].find('\n').unwrap() + 1;
    let expected = format!("{}{}", &readme[..head_end], reference());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(readme == expected, "run UPDATE_README=1 cargo test -p lance-config --test reference");
}

#[test]
fn every_key_is_named_once_and_keeps_its_default_through_its_own_rule() {
    let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
    for key in KEYS {
        assert!(key.doc.ends_with('.'), "{}", key.name);
        let variable = key.variable();
        assert!(variable.starts_with("LANCE_") && variable.contains("__"), "{variable}");
    }
}
