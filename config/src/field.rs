//! The bridge between a checked value and a typed field of the model.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{ClientAuth, IoBackend, LogFormat, OtlpProtocol, Placement, ReplicationMode, Secret, SyncPolicy};
use crate::rule::Parsed;

/// A field that a key can set and that can be listed again.
pub(crate) trait Field {
    /// Takes the value; false when it has another type or does not fit.
    fn set(&mut self, value: Parsed) -> bool;
    /// The value, as [`Field::set`] takes it.
    fn get(&self) -> Parsed;
}

/// Stores what was extracted, and says whether there was anything.
fn store<T>(field: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *field = value;
            true
        }
        None => false,
    }
}

macro_rules! plain_fields {
    ($($field:ty, $variant:ident, $from:expr, $into:expr;)*) => {$(
        impl Field for $field {
            fn set(&mut self, value: Parsed) -> bool {
                let extracted = match value {
                    Parsed::$variant(inner) => $from(inner),
                    _ => None,
                };
                store(self, extracted)
            }

            fn get(&self) -> Parsed {
                Parsed::$variant($into(self))
            }
        }
    )*};
}

plain_fields! {
    bool, Bool, Some, |field: &bool| *field;
    u8, Integer, |number| u8::try_from(number).ok(), |field: &u8| u64::from(*field);
    u16, Integer, |number| u16::try_from(number).ok(), |field: &u16| u64::from(*field);
    u32, Integer, |number| u32::try_from(number).ok(), |field: &u32| u64::from(*field);
    u64, Integer, Some, |field: &u64| *field;
    f64, Number, Some, |field: &f64| *field;
    Duration, Duration, Some, |field: &Duration| *field;
    String, Text, Some, String::clone;
    PathBuf, Text, |text: String| Some(PathBuf::from(text)), |field: &PathBuf| field.to_string_lossy().into_owned();
    Secret, Secret, Some, Secret::clone;
    Vec<String>, Texts, Some, |field: &Vec<String>| field.clone();
    Vec<u32>, Integers, Some, |field: &Vec<u32>| field.clone();
    SyncPolicy, Sync, Some, |field: &SyncPolicy| *field;
}

impl<T: Field> Field for Option<T>
where
    T: FromParsed,
{
    fn set(&mut self, value: Parsed) -> bool {
        if value == Parsed::Unset {
            *self = None;
            return true;
        }
        let extracted = T::from_parsed(value);
        let fits = extracted.is_some();
        if fits {
            *self = extracted;
        }
        fits
    }

    fn get(&self) -> Parsed {
        self.as_ref().map_or(Parsed::Unset, Field::get)
    }
}

/// A field type that may be absent.
pub(crate) trait FromParsed: Sized {
    /// The typed value.
    fn from_parsed(value: Parsed) -> Option<Self>;
}

impl FromParsed for String {
    fn from_parsed(value: Parsed) -> Option<Self> {
        match value {
            Parsed::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl FromParsed for PathBuf {
    fn from_parsed(value: Parsed) -> Option<Self> {
        String::from_parsed(value).map(Self::from)
    }
}

impl FromParsed for Secret {
    fn from_parsed(value: Parsed) -> Option<Self> {
        match value {
            Parsed::Secret(secret) => Some(secret),
            _ => None,
        }
    }
}

impl FromParsed for u32 {
    fn from_parsed(value: Parsed) -> Option<Self> {
        match value {
            Parsed::Integer(number) => Self::try_from(number).ok(),
            _ => None,
        }
    }
}

/// Enums that configuration spells as words.
macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal),* })*) => {$(
        impl $name {
            /// Every word that configuration takes here.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word that configuration spells this with.
            pub fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant => $word),*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Field for $name {
            fn set(&mut self, value: Parsed) -> bool {
                let extracted = match value {
                    Parsed::Text(text) => match text.as_str() {
                        $($word => Some(Self::$variant),)*
                        _ => None,
                    },
                    _ => None,
                };
                store(self, extracted)
            }

            fn get(&self) -> Parsed {
                Parsed::Text(self.as_str().to_owned())
            }
        }
    )*};
}

words! {
    IoBackend { Auto = "auto", IoUring = "io_uring", TokioUring = "tokio_uring", Blocking = "blocking" }
    ReplicationMode { L1 = "L1", L2 = "L2" }
    LogFormat { Text = "text", Json = "json" }
    OtlpProtocol { Grpc = "grpc", Http = "http" }
    ClientAuth { None = "none", Optional = "optional", Required = "required" }
    Placement { Fused = "fused", Dedicated = "dedicated" }
}
