//! Who a certificate says its holder is: the subject's common name, else the first alternative name.

use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest name.
const MAX_NAME_BYTES: usize = 255;

/// The name in a certificate that was verified; `None` when there is none that rules could be about.
pub fn principal_of(certificate: &[u8]) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if let Some(name) = common {
        return usable(name);
    }
    let alternative = certificate.subject_alternative_name().ok().flatten()?;
    alternative.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => usable(name),
        _ => None,
    })
}

/// Names that begin with `__` belong to the server.
fn usable(name: &str) -> Option<Arc<str>> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    (fits && !name.starts_with("__")).then(|| Arc::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_rule_could_be_about_are_none() {
        for name in ["", "a b", "__node", "é", "a\0b", &"x".repeat(256)] {
            assert_eq!(usable(name), None, "{name:?}");
        }
        assert_eq!(usable("spiffe://org/billing").as_deref(), Some("spiffe://org/billing"));
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(principal_of(b"\x30\x03abc"), None);
    }
}
