//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, without channel binding. Pure: nonces come from outside.
//!
//! Neither side shows the password, and each proves to the other that it knows it, or what was derived from it.
//! Names and passwords are visible ASCII here, for which the preparation that the RFC asks for changes nothing.

use crate::security::{HASH_BYTES, SALT_BYTES, SCRAM_ITERATIONS, ScramVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Rounds of new passwords.
pub const DEFAULT_ITERATIONS: u32 = 16_384;
/// Longest message and longest nonce.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Why an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    /// A message that is none.
    #[error("not a SCRAM-SHA-256 message: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The user is unknown, or the password is wrong.
    #[error("Invalid user or password")]
    Refused,
    /// The server does not know the password either.
    #[error("the server cannot prove that it knows this user: it may not be the one you mean")]
    ServerUnproven,
    /// A name or password that cannot be used.
    #[error("user names and passwords are 1 to 255 visible ASCII characters")]
    Unusable,
}

type Key = [u8; HASH_BYTES];

fn malformed(what: &'static str) -> ScramError {
    ScramError::Malformed { what }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // A key of any length will do, so this is never an error.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; HASH_BYTES] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// `Hi` of the RFC: PBKDF2 with one block.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let mut round = hmac(password.as_bytes(), &[salt, &1u32.to_be_bytes()]);
    let mut salted = round;
    for _ in 1..iterations {
        round = hmac(password.as_bytes(), &[&round]);
        salted.iter_mut().zip(round).for_each(|(byte, other)| *byte ^= other);
    }
    salted
}

fn xor(left: Key, right: Key) -> Key {
    let mut out = left;
    out.iter_mut().zip(right).for_each(|(byte, other)| *byte ^= other);
    out
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn is_usable(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// What the server keeps of a password.
pub fn verifier(password: &str, salt: [u8; SALT_BYTES], iterations: u32) -> Result<ScramVerifier, ScramError> {
    if !is_usable(password) {
        return Err(ScramError::Unusable);
    }
    let salted = salted_password(password, &salt, iterations);
    let client_key = hmac(&salted, &[b"Client Key"]);
    let server_key = hmac(&salted, &[b"Server Key"]);
    Ok(ScramVerifier { iterations, salt, stored_key: sha256(&client_key), server_key })
}

/// The value of the attribute that a message goes on with.
fn attribute<'a>(part: Option<&'a str>, name: &str, what: &'static str) -> Result<&'a str, ScramError> {
    part.and_then(|part| part.strip_prefix(name)).ok_or(malformed(what))
}

/// The client's side.
pub struct ScramClient {
    password: String,
    nonce: String,
    first_bare: String,
}

/// What the server has to prove at last.
pub struct ServerProof(Key);

impl ScramClient {
    /// A client that logs in as `user`; `nonce` is new each time, of visible characters without commas.
    pub fn new(user: &str, password: &str, nonce: &str) -> Result<Self, ScramError> {
        if !is_usable(user) || !is_usable(password) {
            return Err(ScramError::Unusable);
        }
        let name = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        Ok(Self { password: password.to_owned(), nonce: nonce.to_owned(), first_bare })
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The second message, and what the server has to answer.
    pub fn last(&self, server_first: &str) -> Result<(String, ServerProof), ScramError> {
        if server_first.len() > MAX_MESSAGE_BYTES {
            return Err(malformed("too long"));
        }
        let mut parts = server_first.split(',');
        let nonce = attribute(parts.next(), "r=", "r= expected")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(malformed("the nonce is not a continuation of the client's"));
        }
        let salt = BASE64.decode(attribute(parts.next(), "s=", "s= expected")?).map_err(|_| malformed("salt"))?;
        let iterations = attribute(parts.next(), "i=", "i= expected")?.parse().map_err(|_| malformed("iterations"))?;
        // Fewer would be a server that wants the password to be easy to find.
        if !SCRAM_ITERATIONS.contains(&iterations) {
            return Err(malformed("iterations out of bounds"));
        }
        let salted = salted_password(&self.password, &salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = hmac(&sha256(&client_key), &[said.as_bytes()]);
        let proof = BASE64.encode(xor(client_key, signature));
        let server_key = hmac(&salted, &[b"Server Key"]);
        Ok((format!("{without_proof},p={proof}"), ServerProof(hmac(&server_key, &[said.as_bytes()]))))
    }
}

impl ServerProof {
    /// Whether the server's last message proves that it knows the user.
    pub fn check(&self, server_last: &str) -> Result<(), ScramError> {
        let proof = server_last.strip_prefix("v=").ok_or(ScramError::Refused)?;
        let proof = BASE64.decode(proof).map_err(|_| malformed("v="))?;
        if bool::from(proof.as_slice().ct_eq(&self.0)) { Ok(()) } else { Err(ScramError::ServerUnproven) }
    }
}

/// The server's side, between the client's two messages.
pub struct ScramServer {
    user: String,
    verifier: ScramVerifier,
    /// An unknown user is answered like any other, up to the proof.
    is_known: bool,
    nonce: String,
    /// Both first messages, as they are signed.
    said: String,
}

/// The name in the first message of a client.
fn first_message(message: &str) -> Result<(String, &str, &str), ScramError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(malformed("too long"));
    }
    let bare = message.strip_prefix("n,,").ok_or(malformed("n,, expected: no channel binding, no other name"))?;
    let mut parts = bare.split(',');
    let name = attribute(parts.next(), "n=", "n= expected")?;
    let nonce = attribute(parts.next(), "r=", "r= expected")?;
    if nonce.len() < 8 || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("nonce"));
    }
    Ok((name.replace("=2C", ",").replace("=3D", "="), nonce, bare))
}

impl ScramServer {
    /// Answers the first message. `find` gives what is kept of a user; `decoy` makes the salt of a user that is unknown.
    pub fn begin(
        message: &str,
        nonce: &str,
        decoy: &[u8],
        find: impl FnOnce(&str) -> Option<ScramVerifier>,
    ) -> Result<(Self, String), ScramError> {
        let (user, client_nonce, bare) = first_message(message)?;
        let found = find(&user);
        let verifier = found.unwrap_or_else(|| {
            let mut salt = [0; SALT_BYTES];
            salt.copy_from_slice(&hmac(decoy, &[user.as_bytes()])[..SALT_BYTES]);
            ScramVerifier {
                iterations: DEFAULT_ITERATIONS,
                salt,
                stored_key: [0; HASH_BYTES],
                server_key: [0; HASH_BYTES],
            }
        });
        let nonce = format!("{client_nonce}{nonce}");
        let first = format!("r={nonce},s={},i={}", BASE64.encode(verifier.salt), verifier.iterations);
        let said = format!("{bare},{first}");
        Ok((Self { user, verifier, is_known: found.is_some(), nonce, said }, first))
    }

    /// Checks the second message: who it is, and the server's own proof.
    pub fn finish(self, message: &str) -> Result<(String, String), ScramError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(malformed("too long"));
        }
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(malformed("p= expected"))?;
        if without_proof != format!("c=biws,r={}", self.nonce) {
            return Err(malformed("channel binding or nonce"));
        }
        let proof: Key = BASE64.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(malformed("p="))?;
        let said = format!("{},{without_proof}", self.said);
        let client_key = xor(proof, hmac(&self.verifier.stored_key, &[said.as_bytes()]));
        let is_right = sha256(&client_key).ct_eq(&self.verifier.stored_key);
        if !(bool::from(is_right) && self.is_known) {
            return Err(ScramError::Refused);
        }
        let signature = hmac(&self.verifier.server_key, &[said.as_bytes()]);
        Ok((self.user, format!("v={}", BASE64.encode(signature))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of RFC 7677.
    #[test]
    fn the_example_of_the_rfc_holds() {
        let salt: [u8; 16] = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let kept = verifier("pencil", salt, 4096).unwrap();
        let client = ScramClient::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let (server, first) = ScramServer::begin(&client.first(), server_nonce, b"", |_| Some(kept)).unwrap();
        assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let (last, proof) = client.last(&first).unwrap();
        let golden = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(last, golden);
        let (user, answer) = server.finish(&last).unwrap();
        assert_eq!((user.as_str(), answer.as_str()), ("user", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert_eq!(proof.check(&answer), Ok(()));
        assert_eq!(proof.check("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(malformed("v=")));
        assert_eq!(proof.check("v=AAAA"), Err(ScramError::ServerUnproven));
    }

    fn run(known: Option<ScramVerifier>, password: &str) -> Result<String, ScramError> {
        let client = ScramClient::new("a,b=c", password, "client-nonce").unwrap();
        let (server, first) = ScramServer::begin(&client.first(), "server-nonce", b"decoy", |name| {
            assert_eq!(name, "a,b=c");
            known
        })?;
        let (last, _) = client.last(&first)?;
        server.finish(&last).map(|(user, _)| user)
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_are_refused_alike() {
        let kept = verifier("right", [7; 16], 4096).unwrap();
        assert_eq!(run(Some(kept), "right"), Ok("a,b=c".to_owned()));
        assert_eq!(run(Some(kept), "wrong"), Err(ScramError::Refused));
        assert_eq!(run(None, "right"), Err(ScramError::Refused));
    }

    #[test]
    fn a_server_that_asks_for_few_rounds_gets_no_proof() {
        let client = ScramClient::new("user", "pencil", "abcdefgh").unwrap();
        for first in
            ["r=abcdefghX,s=AAAA,i=1", "r=abcdefgh,s=AAAA,i=4096", "r=other,s=AAAA,i=4096", "r=abcdefghX,s=A,i=x"]
        {
            assert!(client.last(first).is_err(), "{first}");
        }
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(first in ".{0,80}", last in ".{0,80}") {
            let _ = ScramServer::begin(&first, "n", b"", |_| None);
            let (server, _) = ScramServer::begin("n,,n=u,r=abcdefgh", "n", b"", |_| None).unwrap();
            prop_assert!(server.finish(&last).is_err());
            let _ = ScramClient::new("u", "p", "abcdefgh").unwrap().last(&last);
        }
    }
}
