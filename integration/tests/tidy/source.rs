//! Reads the project's Rust files and tells code from comments and strings, and production code from tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One Rust file.
pub struct Source {
    /// Path below the project's root, with `/`.
    pub path: String,
    /// The text as it is.
    pub text: String,
    /// The text with comments and the insides of literals blanked out; same lines, same columns.
    pub code: String,
    /// True for tests, benches, examples and test modules in files of their own.
    pub is_test: bool,
}

/// The project's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Files below `dir` with one of these extensions, without what was built.
pub fn files(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if path.is_dir() {
                let skipped = ["target", ".git", "corpus", "artifacts", "lance-data", "node_modules"];
                if !skipped.contains(&name) {
                    folders.push(path);
                }
            } else if extensions.contains(&extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path below the root, with `/`.
pub fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}

/// Every Rust file of the project.
pub fn sources() -> Vec<Source> {
    let mut sources: Vec<Source> = files(&root(), &["rs"])
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = relative(&path);
            let code = blank_literals(&text);
            let test_folder = |part: &str| ["tests", "benches", "examples", "fuzz"].contains(&part);
            let is_test = path.split('/').any(|part| test_folder(part.trim_end_matches(".rs")));
            Source { path, text, code, is_test }
        })
        .collect();
    let test_files: BTreeSet<String> = sources.iter().flat_map(test_module_files).collect();
    for source in &mut sources {
        let below_test_module =
            |file: &String| source.path == format!("{file}.rs") || source.path.starts_with(&format!("{file}/"));
        source.is_test |= test_files.iter().any(below_test_module);
    }
    sources
}

/// Paths, without `.rs`, of modules declared as `#[cfg(test)] mod name;`.
fn test_module_files(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let home = match stem {
        "lib" | "main" | "mod" => folder.to_owned(),
        _ => format!("{folder}/{stem}"),
    };
    let declared = |after: &str| {
        let rest = after.trim_start();
        let name = rest.strip_prefix("pub(crate) ").unwrap_or(rest).strip_prefix("mod ")?;
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        name[end..].starts_with(';').then(|| format!("{home}/{}", &name[..end]))
    };
    source.code.split("#[cfg(test)]").skip(1).filter_map(declared).collect()
}

impl Source {
    /// The code without the `#[cfg(test)]` items in it; empty for a test file.
    pub fn production_code(&self) -> String {
        if self.is_test {
            return String::new();
        }
        let mut code = self.code.clone();
        while let Some(start) = code.find("#[cfg(test)]") {
            let end = item_end(&code, start).unwrap_or(code.len());
            let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
        code
    }
}

/// Where the item that begins at `start` ends: after its `;`, or after its closing brace.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let open = start + code[start..].find(['{', ';'])?;
    match code.as_bytes().get(open) {
        Some(b'{') => closing_brace(code, open).map(|end| end + 1),
        _ => Some(open + 1),
    }
}

/// The brace that closes the one at `open`.
fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at),
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// Name, first line and number of lines of every function with a body.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word =
            at == 0 || !code.as_bytes()[at - 1].is_ascii_alphanumeric() && code.as_bytes()[at - 1] != b'_';
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        let Some(body) = body_start(code, at) else {
            continue;
        };
        let Some(end) = closing_brace(code, body) else {
            continue;
        };
        let line = 1 + code[..at].matches('\n').count();
        found.push((name, line, 1 + code[at..end].matches('\n').count()));
    }
    found
}

/// The opening brace of a function's body; none for a declaration in a trait.
fn body_start(code: &str, function: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(function) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// True where `word` stands at `at` in `code` as a whole word.
pub fn is_word(code: &str, at: usize, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    !code[..at].ends_with(part_of_word) && !code[at + word.len()..].starts_with(part_of_word)
}

/// Replaces comments and the insides of string and character literals with blanks.
pub fn blank_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        match end {
            Some(end) => {
                out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == '/' => Some(position(chars, at, |c| c == '\n')),
        '/' if next(1) == '*' => Some(block_comment_end(chars, at)),
        '"' => Some(string_end(chars, at)),
        'r' if !after_word || chars[at - 1] == 'b' => raw_string_end(chars, at),
        '\'' if next(1) == '\\' => Some((position(chars, at + 3, |c| c == '\'') + 1).min(chars.len())),
        '\'' if next(2) == '\'' => Some(at + 3),
        _ => None,
    }
}

fn position(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| wanted(chars[*at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return None;
    }
    let closes =
        |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    let quote = (start + 2 + hashes..chars.len()).find(closes)?;
    Some(quote + 1 + hashes)
}
