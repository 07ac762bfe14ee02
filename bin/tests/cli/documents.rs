//! What the documentation tells people to type and to write into files: every command line parses, every configuration loads.

use crate::commands::{commands_of, find_names, parse, programs};
use lance_config::{LoadRequest, load};
use std::path::{Path, PathBuf};

/// What every configuration gets that has it from its environment.
const SECRETS: [(&str, &str); 2] =
    [("LANCE_CLUSTER__SECRET", "0123456789abcdef"), ("LANCE_AUTH__TOKEN", "0123456789abcdef")];

/// A block between fences.
struct Block {
    language: String,
    /// File and line.
    place: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["README.md", "deploy/README.md", "config/README.md", "client/README.md", "bin/README.md"];
    let mut all: Vec<PathBuf> = pages.chain(others.map(|name| root.join(name))).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    all.sort();
    all
}

fn blocks(path: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                let place = format!("{}:{}", path.display(), number + 1);
                open = Some(Block { language: language.trim().to_owned(), place, text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block without an end", path.display());
    blocks
}

fn all_blocks() -> impl Iterator<Item = Block> {
    documents().into_iter().flat_map(|path| blocks(&path))
}

#[test]
fn every_configuration_in_the_documentation_loads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lance.toml");
    let (mut findings, mut count) = (Vec::new(), 0);
    // Those of Rust packages are no configuration of ours.
    let is_ours = |block: &Block| block.language == "toml" && !block.text.contains("dependencies]");
    for block in all_blocks().filter(is_ours) {
        count += 1;
        std::fs::write(&file, &block.text).unwrap();
        let environment = SECRETS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let request = LoadRequest {
            file: Some(file.clone()),
            environment,
            sets: Vec::new(),
            host_name: Some("lance-0".to_owned()),
        };
        for problem in load(&request).err().unwrap_or_default() {
            findings.push(format!("{}: {problem}", block.place));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(count >= 4, "only {count} configurations were found");
}

#[test]
fn every_command_that_the_documentation_mentions_is_there_with_its_flags() {
    let (mut findings, mut count) = (Vec::new(), 0);
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for mention in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let words: Vec<&str> = mention.split_whitespace().collect();
            if words.len() < 2 || !programs().iter().any(|program| program.get_name() == words[0]) {
                continue;
            }
            count += 1;
            if let Err(error) = find_names(&words) {
                findings.push(format!("{}: {error}", path.display()));
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(count > 50, "only {count} mentions were found");
}

#[test]
fn a_mention_of_what_is_not_there_is_found() {
    assert!(find_names(&["lnc", "topic", "tee", "add|remove\\|list", "--output"]).is_ok());
    assert!(find_names(&["lnc", "topic", "alter", "TOPIC", "--nonsense"]).is_err());
    assert!(find_names(&["lnc", "topic", "nonsense"]).is_err());
    assert!(find_names(&["lnc", "topic", "tee", "add|nonsense"]).is_err());
}

#[test]
fn every_command_line_in_the_documentation_parses() {
    let (mut findings, mut count) = (Vec::new(), 0);
    let is_script = |block: &Block| ["", "sh", "bash", "console", "text"].contains(&block.language.as_str());
    for block in all_blocks().filter(is_script) {
        for words in commands_of(&block.text) {
            count += 1;
            if let Err(error) = parse(&words) {
                findings.push(format!("{}: {error}", block.place));
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(count >= 20, "only {count} command lines were found");
}
