//! Node passwords: what arrives on the wire, and which of it is taken.
//!
//! Documented is base64 of a sha512-crypt string (`$6$salt$hash`). Some clients send clear text by
//! mistake, one of them whenever the text happens to look like base64; so clear text is told apart,
//! checked against the password rules, and handed on to be hashed at once.
//!
//! Entry point: [`PasswordInput::read`].
//! Deliberately absent: hashing (it needs a random salt), and the password in any text.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Length of clear text in characters, from the API page.
const CLEAR_LENGTH: std::ops::RangeInclusive<usize> = 8..=26;

/// Special characters: the API page, and the three that newer texts add.
const SPECIALS: &str = "!@$%^-_=+[{}]:,./?~#*";

/// Most rounds taken. More would let one request keep a login on the node busy for seconds.
const MAX_ROUNDS: u32 = 100_000;

/// Fewest rounds of sha512-crypt; the C library silently raises smaller numbers to this.
const MIN_ROUNDS: u32 = 1000;

/// Length of the hash part of sha512-crypt: 64 bytes in its base64.
const HASH_LENGTH: usize = 86;

/// Longest salt of sha512-crypt.
const MAX_SALT: usize = 16;

/// Text that no log, error or answer may show. Wiped from memory when dropped; it does not
/// implement `Serialize`, so that it cannot get into an answer or a record by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Every caller of this is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// A password as it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordInput {
    /// A complete sha512-crypt string, `$6$...`, ready for the shadow file.
    Hashed(Secret),
    /// Clear text that keeps the password rules. To be hashed before anything is stored.
    Clear(Secret),
}

/// A rule that a password breaks, without the password: (rule, way out).
pub type PasswordRefusal = (String, String);

const SALT_WAY: &str = "send base64 of the sha512-crypt string, for example \
    `openssl passwd -6 | tr -d '\\n' | base64 -w0`";

impl PasswordInput {
    /// Reads the wire value of a password for this user.
    pub fn read(text: &str, username: &str) -> Result<Self, PasswordRefusal> {
        if crypt_scheme(text).is_some() {
            return Err(("is a hash that is not base64-encoded".to_owned(), SALT_WAY.to_owned()));
        }
        let decoded = STANDARD.decode(text).ok().map(Zeroizing::new);
        let decoded = decoded.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        if let Some((hash, scheme)) = decoded.and_then(|text| Some((text, crypt_scheme(text)?))) {
            if scheme != "6" {
                let rule = format!("is a hash of the scheme ${scheme}$, only $6$ is taken");
                return Err((rule, SALT_WAY.to_owned()));
            }
            check_sha512_crypt(hash).map_err(|rule| (rule, SALT_WAY.to_owned()))?;
            return Ok(PasswordInput::Hashed(Secret::new(hash)));
        }
        let way_out = "choose another password, or send base64 of its sha512-crypt string";
        check_clear(text, username).map_err(|rule| (rule, way_out.to_owned()))?;
        Ok(PasswordInput::Clear(Secret::new(text)))
    }
}

/// The scheme of a text of the form `$scheme$...`, as crypt(5) names it.
fn crypt_scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.strip_prefix('$')?.split_once('$')?;
    let known = ["1", "2", "2a", "2b", "2x", "2y", "3", "5", "6", "7", "md5", "sha1", "y", "gy"];
    known.contains(&scheme).then_some(scheme)
}

fn check_sha512_crypt(text: &str) -> Result<(), String> {
    let broken = || "is not a complete sha512-crypt string ($6$salt$86 characters)".to_owned();
    let mut rest = text.strip_prefix("$6$").ok_or_else(broken)?;
    if let Some(tail) = rest.strip_prefix("rounds=") {
        let (rounds, tail) = tail.split_once('$').ok_or_else(broken)?;
        let plain = !rounds.starts_with('0') && rounds.bytes().all(|b| b.is_ascii_digit());
        let rounds = rounds.parse::<u32>().ok().filter(|_| plain);
        if !rounds.is_some_and(|rounds| (MIN_ROUNDS..=MAX_ROUNDS).contains(&rounds)) {
            return Err(format!("has rounds outside {MIN_ROUNDS} to {MAX_ROUNDS}"));
        }
        rest = tail;
    }
    let (salt, hash) = rest.split_once('$').ok_or_else(broken)?;
    let in_alphabet =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    let whole = (1..=MAX_SALT).contains(&salt.len()) && hash.len() == HASH_LENGTH;
    if whole && in_alphabet(salt) && in_alphabet(hash) { Ok(()) } else { Err(broken()) }
}

fn check_clear(text: &str, username: &str) -> Result<(), String> {
    if !CLEAR_LENGTH.contains(&text.chars().count()) {
        return Err("is neither base64 of a $6$ hash nor 8 to 26 characters long".to_owned());
    }
    let classes: [fn(char) -> bool; 4] = [
        |c| c.is_ascii_uppercase(),
        |c| c.is_ascii_lowercase(),
        |c| c.is_ascii_digit(),
        |c| SPECIALS.contains(c),
    ];
    if !text.chars().all(|c| classes.iter().any(|class| class(c))) {
        return Err(format!("has characters other than letters, digits and {SPECIALS}"));
    }
    if classes.iter().filter(|class| text.chars().any(*class)).count() < 3 {
        return Err(format!(
            "has fewer than three of upper case, lower case, digits and {SPECIALS}"
        ));
    }
    let backwards: String = username.chars().rev().collect();
    if text.contains(username) || text.contains(&backwards) {
        return Err("contains the user name or the user name backwards".to_owned());
    }
    Ok(())
}
