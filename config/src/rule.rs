//! What one key takes: parsing a TOML value or a plain text by a rule, and saying in words what the rule allows.

use std::time::Duration;

use toml::Value;

use crate::address::{Address, PortRule};
use crate::model::{Secret, SyncPolicy};
use crate::quota::ClientQuota;
use crate::units;

/// Shortest and longest cluster secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

/// Unit of a bare number where a duration is expected; the last part of the key's name says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Keys that end in `_ms`.
    Milliseconds,
    /// Keys that end in `_secs`.
    Seconds,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// true or false.
    Bool,
    /// A whole number within these bounds.
    Integer {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// A number of bytes, bare or with a unit, within bounds and a multiple.
    Size {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
        /// Every value is a multiple of this.
        multiple_of: u64,
    },
    /// A duration, bare in `unit` or with a unit of its own.
    Duration {
        /// Of a bare number.
        unit: Unit,
        /// Least.
        min: Duration,
        /// Greatest.
        max: Duration,
    },
    /// A number within these bounds.
    Number {
        /// Least.
        min: f64,
        /// Greatest.
        max: f64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A text that is not empty.
    Text,
    /// A path that is not empty.
    Path,
    /// An `http://` or `https://` URL.
    Url,
    /// A secret text.
    Secret,
    /// host:port to listen on.
    Listen,
    /// host:port that others connect to.
    Reachable,
    /// A list of host:port.
    Peers,
    /// A list of `NAME=PRODUCE/FETCH`.
    Quotas,
    /// A list of names of users.
    Names,
    /// A PCI address.
    Pci,
    /// A list of CPU numbers.
    Cpus,
    /// `"always"` or a window.
    Sync,
}

/// A value that passed its rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    Unset,
    Bool(bool),
    Integer(u64),
    Number(f64),
    Duration(Duration),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<u32>),
    Secret(Secret),
    Sync(SyncPolicy),
}

/// A value as it was set: typed in a file, plain text in an environment variable or a flag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RawValue {
    Toml(Value),
    Text(String),
}

impl RawValue {
    /// The value as the user wrote it, on one line.
    pub(crate) fn display(&self, rule: Rule) -> String {
        if rule == Rule::Secret {
            return "********".to_owned();
        }
        match self {
            Self::Toml(value) => value.to_string().replace('\n', " "),
            Self::Text(text) => format!("{text:?}"),
        }
    }
}

impl Rule {
    /// What the rule allows, in words that end a sentence "allowed is …".
    pub fn allowed(&self) -> String {
        match *self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Size { min, max, multiple_of } => {
                let multiple = match multiple_of {
                    0 | 1 => String::new(),
                    n => format!(", a multiple of {n}"),
                };
                format!("bytes, or a size such as \"256KiB\" or \"10GiB\", from {min} to {max}{multiple}")
            }
            Self::Duration { unit, min, max } => {
                let unit = match unit {
                    Unit::Milliseconds => "milliseconds",
                    Unit::Seconds => "seconds",
                };
                let (min, max) = (units::duration_text(min), units::duration_text(max));
                format!("{unit}, or a duration such as \"500ms\", \"30s\" or \"7d\", from {min} to {max}")
            }
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::OneOf(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
            Self::Text => "a text that is not empty".to_owned(),
            Self::Path => "a path that is not empty".to_owned(),
            Self::Url => "a URL that starts with http:// or https://".to_owned(),
            Self::Secret => format!("a text of {} to {} bytes", SECRET_BYTES.start(), SECRET_BYTES.end()),
            Self::Listen => {
                "\"host:port\", for example \"127.0.0.1:1992\" or \"[::]:1992\"; port 0 takes a free one".to_owned()
            }
            Self::Reachable => "\"host:port\" with a port from 1 to 65535, an address others can reach".to_owned(),
            Self::Peers => {
                "a list of \"host:port\" with ports from 1 to 65535, none twice, for example [\"lance-2:1992\"]"
                    .to_owned()
            }
            Self::Names => "a list of names of 1 to 255 visible ASCII characters, none twice".to_owned(),
            Self::Quotas => {
                "a list of \"NAME=PRODUCE/FETCH\" in bytes a second (0 = unlimited, NAME may end in *), none twice, for example \
                 [\"reports=1MiB/10MiB\"]"
                    .to_owned()
            }
            Self::Pci => "a PCI address such as \"0000:3b:00.0\"".to_owned(),
            Self::Cpus => "a list of CPU numbers, none twice, for example [0, 1]".to_owned(),
            Self::Sync => "\"always\" or { interval_ms = 1 to 60000, bytes = 1 to 1073741824 }".to_owned(),
        }
    }

    /// Parses a value; `None` when the rule does not allow it.
    pub(crate) fn parse(&self, raw: &RawValue) -> Option<Parsed> {
        match raw {
            RawValue::Toml(value) => self.parse_toml(value),
            RawValue::Text(text) => self.parse_text(text.trim()),
        }
    }

    fn parse_toml(&self, value: &Value) -> Option<Parsed> {
        match *self {
            Self::Bool => value.as_bool().map(Parsed::Bool),
            Self::Integer { min, max } => {
                let number = u64::try_from(value.as_integer()?).ok()?;
                (min..=max).contains(&number).then_some(Parsed::Integer(number))
            }
            Self::Size { min, max, multiple_of } => {
                let bytes = match value {
                    Value::Integer(bytes) => u64::try_from(*bytes).ok()?,
                    Value::String(text) => units::parse_size(text)?,
                    _ => return None,
                };
                let fits = (min..=max).contains(&bytes) && bytes.is_multiple_of(multiple_of.max(1));
                fits.then_some(Parsed::Integer(bytes))
            }
            Self::Duration { unit, min, max } => {
                let duration = match value {
                    Value::Integer(count) => bare_duration(u64::try_from(*count).ok()?, unit),
                    Value::String(text) => units::parse_duration(text)?,
                    _ => return None,
                };
                (min..=max).contains(&duration).then_some(Parsed::Duration(duration))
            }
            Self::Number { min, max } => {
                let number = match value {
                    Value::Integer(number) => *number as f64,
                    Value::Float(number) => *number,
                    _ => return None,
                };
                (min..=max).contains(&number).then_some(Parsed::Number(number))
            }
            Self::Peers => texts(value, |text| Address::parse(text, PortRule::Fixed).is_some()),
            Self::Names => {
                texts(value, |text| (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()))
            }
            Self::Quotas => texts(value, |text| ClientQuota::parse(text).is_some()),
            Self::Cpus => cpus(value),
            Self::Sync => sync_policy(value),
            _ => self.parse_word(value.as_str()?),
        }
    }

    /// The rules that take one text.
    fn parse_word(&self, text: &str) -> Option<Parsed> {
        let fits = match *self {
            Self::OneOf(words) => words.contains(&text),
            Self::Text | Self::Path => !text.is_empty() && !text.contains('\0'),
            Self::Url => text.starts_with("http://") || text.starts_with("https://"),
            Self::Secret => SECRET_BYTES.contains(&text.len()),
            Self::Listen => Address::parse(text, PortRule::AnyFree).is_some(),
            Self::Reachable => Address::parse(text, PortRule::Fixed).is_some_and(|address| !address.is_unspecified()),
            Self::Pci => is_pci_address(text),
            _ => false,
        };
        match self {
            Self::Secret => fits.then(|| Parsed::Secret(Secret::new(text.to_owned()))),
            _ => fits.then(|| Parsed::Text(text.to_owned())),
        }
    }

    /// Plain text has no types: the rule decides how to read it.
    fn parse_text(&self, text: &str) -> Option<Parsed> {
        if text.is_empty() && !matches!(self, Self::Peers | Self::Names | Self::Quotas | Self::Cpus) {
            return Some(Parsed::Unset);
        }
        let value = match *self {
            Self::Bool => Value::Boolean(text.parse().ok()?),
            Self::Integer { .. } => Value::Integer(text.replace('_', "").parse().ok()?),
            Self::Number { .. } => Value::Float(text.parse().ok()?),
            Self::Size { .. } | Self::Duration { .. } => match text.replace('_', "").parse::<i64>() {
                Ok(count) => Value::Integer(count),
                Err(_) => Value::String(unquoted(text).to_owned()),
            },
            Self::Peers | Self::Names | Self::Quotas | Self::Cpus => self.list_of_text(text)?,
            Self::Sync if text.starts_with('{') => one_toml_value(text)?,
            _ => Value::String(unquoted(text).to_owned()),
        };
        self.parse_toml(&value)
    }

    /// `[a, b]` as TOML writes it, or `a,b`.
    fn list_of_text(&self, text: &str) -> Option<Value> {
        if text.starts_with('[')
            && text.ends_with(']')
            && let Some(value) = one_toml_value(text)
        {
            return Some(value);
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let items: Option<Vec<Value>> = parts
            .map(|part| match self {
                Self::Cpus => part.parse().ok().map(Value::Integer),
                _ => Some(Value::String(unquoted(part).to_owned())),
            })
            .collect();
        items.map(Value::Array)
    }
}

fn bare_duration(count: u64, unit: Unit) -> Duration {
    match unit {
        Unit::Milliseconds => Duration::from_millis(count),
        Unit::Seconds => Duration::from_secs(count),
    }
}

fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(text)
}

fn one_toml_value(text: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

fn texts(value: &Value, fits: impl Fn(&str) -> bool) -> Option<Parsed> {
    let mut list: Vec<String> = Vec::new();
    for item in value.as_array()? {
        let text = item.as_str().filter(|text| fits(text))?;
        if list.iter().any(|known| known == text) {
            return None;
        }
        list.push(text.to_owned());
    }
    Some(Parsed::Texts(list))
}

fn cpus(value: &Value) -> Option<Parsed> {
    let mut list: Vec<u32> = Vec::new();
    for item in value.as_array()? {
        let cpu = u32::try_from(item.as_integer()?).ok().filter(|cpu| *cpu < 4096)?;
        if list.contains(&cpu) {
            return None;
        }
        list.push(cpu);
    }
    Some(Parsed::Integers(list))
}

fn sync_policy(value: &Value) -> Option<Parsed> {
    if value.as_str() == Some("always") {
        return Some(Parsed::Sync(SyncPolicy::Always));
    }
    let table = value.as_table().filter(|table| table.len() == 2)?;
    let interval =
        Rule::Duration { unit: Unit::Milliseconds, min: Duration::from_millis(1), max: Duration::from_secs(60) };
    let bytes = Rule::Size { min: 1, max: 1 << 30, multiple_of: 1 };
    match (interval.parse_toml(table.get("interval_ms")?)?, bytes.parse_toml(table.get("bytes")?)?) {
        (Parsed::Duration(interval), Parsed::Integer(bytes)) => {
            Some(Parsed::Sync(SyncPolicy::Window { interval, bytes }))
        }
        _ => None,
    }
}

/// `domain:bus:device.function`, in hexadecimal digits.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = text.split([':', '.']);
    let fits = [4, 2, 2, 1].into_iter().all(|digits| parts.next().is_some_and(|part| hex(part, digits)));
    fits && parts.next().is_none() && text.as_bytes().get(10) == Some(&b'.')
}
