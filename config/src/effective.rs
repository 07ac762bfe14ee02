//! The configuration in force, as TOML that loads again. Secrets stay out of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::keys::{KEYS, Key, sections};
use crate::model::{Config, SyncPolicy};
use crate::problem::Origin;
use crate::rule::{Parsed, Rule, Unit};
use crate::units;

/// Writes every key with its value; a value that is not a default says where it came from.
pub fn to_toml(config: &Config, origins: &BTreeMap<&'static str, Origin>) -> String {
    let mut text = String::new();
    for (number, section) in sections().into_iter().enumerate() {
        let gap = if number == 0 { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{section}]");
        for key in KEYS.iter().filter(|key| key.section() == section) {
            write_key(&mut text, key, (key.get)(config), origins.get(key.name));
        }
    }
    text
}

fn write_key(text: &mut String, key: &Key, value: Parsed, origin: Option<&Origin>) {
    let from = origin.map(|origin| format!("  # from {origin}")).unwrap_or_default();
    let name = key.short_name();
    let _ = match (&value, value_text(key.rule, &value)) {
        (Parsed::Secret(_), _) => writeln!(text, "# {name} is set and not shown{from}"),
        (_, Some(value)) => writeln!(text, "{name} = {value}{from}"),
        (_, None) => writeln!(text, "# {name} is not set"),
    };
}

/// The value as TOML; `None` when there is none to show.
pub(crate) fn value_text(rule: Rule, value: &Parsed) -> Option<String> {
    Some(match value {
        Parsed::Unset | Parsed::Secret(_) => return None,
        Parsed::Bool(flag) => flag.to_string(),
        Parsed::Integer(bytes) if matches!(rule, Rule::Size { .. }) && *bytes >= 4096 => {
            toml_text(&units::size_text(*bytes))
        }
        Parsed::Integer(number) => number.to_string(),
        Parsed::Number(number) => format!("{number:?}"),
        Parsed::Duration(duration) => duration_text(rule, *duration),
        Parsed::Text(text) => toml_text(text),
        Parsed::Texts(texts) => {
            let items: Vec<String> = texts.iter().map(|text| toml_text(text)).collect();
            format!("[{}]", items.join(", "))
        }
        Parsed::Integers(numbers) => format!("{numbers:?}"),
        Parsed::Sync(SyncPolicy::Always) => toml_text("always"),
        Parsed::Sync(SyncPolicy::Window { interval, bytes }) => {
            format!("{{ interval_ms = {}, bytes = {bytes} }}", interval.as_millis())
        }
    })
}

fn duration_text(rule: Rule, duration: Duration) -> String {
    match rule {
        Rule::Duration { unit: Unit::Seconds, .. } if duration.subsec_millis() == 0 => duration.as_secs().to_string(),
        Rule::Duration { unit: Unit::Seconds, .. } => toml_text(&units::duration_text(duration)),
        _ => duration.as_millis().to_string(),
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
