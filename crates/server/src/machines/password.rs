//! Clear passwords become sha512-crypt hashes at once, in the form that hosts' `crypt(3)` recomputes.
//!
//! Entry points: [`hash`] and [`verify`]. Absent: the password rules (they belong to the API).

use evenkeel_node::protocol::ROUNDS_MAX;
use secrecy::{ExposeSecret, SecretString};
use sha_crypt::{PasswordHasher, PasswordVerifier, ShaCrypt};

/// 12 random bytes are 16 characters of salt, the most that crypt(5) takes: with a longer salt glibc
/// computes another string and every login fails.
const SALT_BYTES: usize = 12;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for the salt of a password")]
    Random(#[source] getrandom::Error),
    /// The hash could not be made.
    #[error("the password could not be hashed")]
    Hash(#[source] sha_crypt::password_hash::Error),
}

/// Hashes a clear password with a fresh salt: `$6$rounds=5000$salt$digest`.
pub fn hash(clear: &SecretString) -> Result<SecretString, PasswordError> {
    let mut salt = [0_u8; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(PasswordError::Random)?;
    ShaCrypt::SHA512
        .hash_password_with_salt(clear.expose_secret().as_bytes(), &salt)
        .map(|hash| SecretString::from(hash.to_string()))
        .map_err(PasswordError::Hash)
}

/// Whether `clear` is the password of `hash`. Anything that is not a crypt hash is not, nor is one with more rounds
/// than a host accepts: computing it would take minutes.
pub fn verify(clear: &SecretString, hash: &SecretString) -> bool {
    let rounds = hash.expose_secret().split('$').find_map(|part| part.strip_prefix("rounds="));
    if rounds.is_some_and(|n| n.parse::<u32>().map_or(true, |n| n > ROUNDS_MAX)) {
        return false;
    }
    ShaCrypt::SHA512.verify_password(clear.expose_secret().as_bytes(), hash.expose_secret()).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_hash_fits_hosts_and_verifies() {
        let clear = SecretString::from("Canary-Pass1");
        let hashed = hash(&clear).unwrap();
        let parts: Vec<&str> = hashed.expose_secret().split('$').collect();
        assert_eq!((parts[1], parts[2]), ("6", "rounds=5000"));
        assert_eq!((parts[3].len(), parts[4].len()), (16, 86));
        assert!(verify(&clear, &hashed));
        assert!(!verify(&SecretString::from("Canary-Pass2"), &hashed));
        assert_ne!(hash(&clear).unwrap().expose_secret(), hashed.expose_secret());
        assert!(!format!("{hashed:?}").contains("rounds"));
    }

    /// The value is of glibc 2.36's crypt(3) (perl -e 'print crypt(...)').
    #[test]
    fn a_hash_of_libc_verifies() {
        let libc = SecretString::from(
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        );
        assert!(verify(&SecretString::from("Hello world!"), &libc));
        assert!(!verify(&SecretString::from("Hello world?"), &libc));
        assert!(!verify(&SecretString::from("x"), &SecretString::from("plain")));
    }
}
