//! Server addresses: `HOST:PORT[,HOST:PORT…]`.

use crate::error::ClientError;
use std::fmt;
use std::str::FromStr;

/// A list of at least one server.
///
/// ```
/// use lance_client::address::ServerList;
///
/// let servers: ServerList = "lance-1:1992,[::1]:1992".parse()?;
/// assert_eq!(servers.addresses(), ["lance-1:1992", "[::1]:1992"]);
/// # Ok::<(), lance_client::ClientError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerList {
    addresses: Vec<String>,
}

impl ServerList {
    /// The addresses, in the order given.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

impl FromStr for ServerList {
    type Err = ClientError;

    fn from_str(given: &str) -> Result<Self, ClientError> {
        let invalid = || ClientError::InvalidAddress { given: given.to_owned() };
        let addresses: Vec<String> = given.split(',').map(|part| part.trim().to_owned()).collect();
        for address in &addresses {
            let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
            let bracketed = host.starts_with('[') && host.ends_with(']');
            if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
                return Err(invalid());
            }
        }
        Ok(Self { addresses })
    }
}

impl fmt::Display for ServerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addresses.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_servers_are_read_and_nonsense_is_refused() {
        let list: ServerList = "a:1, [::1]:2".parse().unwrap();
        assert_eq!(list.addresses(), ["a:1", "[::1]:2"]);
        for wrong in ["", "a", "a:", ":1", "a:70000", "a:1,,b:2", "::1:2"] {
            assert!(wrong.parse::<ServerList>().is_err(), "{wrong}");
        }
    }
}
