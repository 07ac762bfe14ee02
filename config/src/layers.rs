//! Where values come from: file, environment, flags, each overriding the one before. Every value keeps its origin.

use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::keys::{KEYS, Key, sections};
use crate::problem::{ConfigProblem, Origin};
use crate::rule::RawValue;
use crate::suggest::nearest;

/// A key with a value somebody gave it.
pub(crate) struct Assignment {
    pub(crate) key: &'static Key,
    pub(crate) value: RawValue,
    pub(crate) origin: Origin,
}

/// Everything set, in the order in which it takes effect; what cannot be told apart from a mistake goes to `problems`.
#[derive(Default)]
pub(crate) struct Layers {
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) problems: Vec<ConfigProblem>,
}

impl Layers {
    /// Reads a file.
    pub(crate) fn add_file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.add_text(path, &text),
            Err(error) => {
                self.problems.push(ConfigProblem::Unreadable { path: path.to_owned(), reason: error.to_string() });
            }
        }
    }

    fn add_text(&mut self, path: &Path, text: &str) {
        let origin_at =
            |at: Option<usize>| Origin::File { path: path.to_owned(), line: at.map(|offset| line_of(text, offset)) };
        let (spans, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = origin_at(error.span().map(|span| span.start));
            self.problems.push(ConfigProblem::Syntax { origin, reason: error.message().replace('\n', ", ") });
        }
        if !errors.is_empty() {
            return;
        }
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let origin = origin_at(error.span().map(|span| span.start));
                let reason = error.message().replace('\n', ", ");
                self.problems.push(ConfigProblem::Syntax { origin, reason });
                return;
            }
        };
        for (section, value) in table {
            let section_origin = origin_at(key_start(spans.get_ref(), &section));
            let Value::Table(keys) = value else {
                self.unknown(section_origin, &section, &RawValue::Toml(value));
                continue;
            };
            let section_spans = spans.get_ref().get(section.as_str()).and_then(|value| value.get_ref().as_table());
            if keys.is_empty() && !sections().contains(&section.as_str()) {
                self.unknown(section_origin, &section, &RawValue::Toml(Value::Table(keys)));
                continue;
            }
            for (short_name, value) in keys {
                let origin = origin_at(section_spans.and_then(|table| key_start(table, &short_name)));
                self.assign(origin, &format!("{section}.{short_name}"), RawValue::Toml(value));
            }
        }
    }

    /// Takes the variables named `LANCE_SECTION__KEY`; others that begin with `LANCE_` belong to somebody else.
    pub(crate) fn add_environment(&mut self, variables: &[(String, String)]) {
        for (name, value) in variables {
            let Some((section, short_name)) = name.strip_prefix("LANCE_").and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let key = format!("{}.{}", section.to_lowercase(), short_name.to_lowercase());
            self.assign(Origin::Environment(name.clone()), &key, RawValue::Text(value.clone()));
        }
    }

    /// Takes the texts of `--set` flags.
    pub(crate) fn add_flags(&mut self, flags: &[String]) {
        for flag in flags {
            match flag.split_once('=') {
                Some((key, value)) if key.contains('.') => {
                    let key = key.trim();
                    self.assign(Origin::Flag(key.to_owned()), key, RawValue::Text(value.to_owned()));
                }
                _ => self.problems.push(ConfigProblem::Flag { text: flag.clone() }),
            }
        }
    }

    fn assign(&mut self, origin: Origin, name: &str, value: RawValue) {
        match Key::find(name) {
            Some(key) => self.assignments.push(Assignment { key, value, origin }),
            None => self.unknown(origin, name, &value),
        }
    }

    fn unknown(&mut self, origin: Origin, name: &str, value: &RawValue) {
        let section = name.split_once('.').map_or(name, |(section, _)| section);
        let in_section: Vec<&str> = KEYS.iter().filter(|key| key.section() == section).map(Key::short_name).collect();
        let allowed = match in_section.is_empty() {
            true => format!("allowed sections are {}", sections().join(", ")),
            false => format!("allowed in [{section}] are {}", in_section.join(", ")),
        };
        // A secret may have been put under a mistyped key: show its type and not its text.
        let hide = ["secret", "token", "password"].iter().any(|word| name.to_lowercase().contains(word));
        let shown = if hide { "********".to_owned() } else { shorten(value.display(crate::rule::Rule::Text)) };
        self.problems.push(ConfigProblem::UnknownKey {
            origin,
            key: name.to_owned(),
            value: shown,
            suggestion: suggestion(name).map(str::to_owned),
            allowed,
        });
    }
}

/// A near name, or the same key where it really lives.
fn suggestion(name: &str) -> Option<&'static str> {
    let short = name.rsplit_once('.').map_or(name, |(_, short)| short);
    nearest(name, KEYS.iter().map(|key| key.name))
        .or_else(|| KEYS.iter().find(|key| key.short_name() == short).map(|key| key.name))
        .or_else(|| nearest(name, sections().into_iter()))
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn key_start(table: &DeTable<'_>, name: &str) -> Option<usize> {
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    match value.get_ref() {
        DeValue::Table(_) => Some(key.span().start),
        _ => Some(key.span().start.min(value.span().start)),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}
