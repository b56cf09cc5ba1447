//! Secrets at rest: envelope encryption under a key file that lies outside the data directory.
//!
//! Entry points: [`KeyFile::open`], [`KeyFile::seal`], [`KeyFile::unseal`]. Each record has a key
//! of its own (DEK), wrapped by the file's key (KEK), so that a new KEK means wrapping again, not
//! encrypting again. AES-256-GCM binds both to the place of the record: a ciphertext that was
//! moved does not open. Absent on purpose: where records are kept, and key services; a backup of
//! the data never holds the key.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce, Payload};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;
/// Bytes of a nonce: what GCM is specified for (NIST SP 800-38D).
const NONCE_BYTES: usize = 12;
/// First word of each line of a key file.
const LINE_MARK: &str = "evenkeel-key-v1";

/// Errors around sealed secrets. None of them shows a secret or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The key file is not there, but sealed records may be.
    #[error(
        "the key file {path} does not exist; put it back from where you keep it: without it the \
         stored credentials cannot be read"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The key file lies where a backup of the data would take it along.
    #[error(
        "the key file {path} lies inside the data directory {data_dir}; configure a path outside"
    )]
    InsideDataDir {
        /// The file.
        path: PathBuf,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Others can read the key file.
    #[error("the key file {path} has mode {mode:04o}; run: chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file cannot be understood.
    #[error("line {line} of the key file {path} is not a key; put the file back from a copy")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Reading or writing the key file failed.
    #[error("cannot access the key file {path}; check its directory and its owner")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The record was sealed under a key that the file does not hold.
    #[error(
        "{place} was sealed with key {key_id}, which is not in the key file; add that key's line \
         to the file, or enter the secret again"
    )]
    UnknownKey {
        /// Where the record belongs.
        place: String,
        /// The key's id.
        key_id: String,
    },
    /// The record is damaged or belongs elsewhere.
    #[error(
        "{place} does not open: it was changed, or belongs to another record; restore it from a \
         backup, or enter the secret again"
    )]
    Refused {
        /// Where the record was expected to belong.
        place: String,
    },
    /// The system gave no random bytes.
    #[error("the system's random number generator failed")]
    Random(#[source] getrandom::Error),
}

/// The place a secret belongs to. All parts are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretContext<'a> {
    /// Project id.
    pub project: &'a str,
    /// Kind of the record, such as `cluster`.
    pub kind: &'a str,
    /// Id of the record.
    pub id: &'a str,
    /// Field of the record.
    pub field: &'a str,
    /// Version of the secret, so that an older one cannot be put back.
    pub version: u64,
}

impl SecretContext<'_> {
    /// Unambiguous bytes: every part with its length. `use_of` keeps DEK and data apart.
    fn aad(&self, use_of: &str) -> Vec<u8> {
        let mut aad = Vec::new();
        for part in [use_of, self.project, self.kind, self.id, self.field] {
            aad.extend((part.len() as u64).to_be_bytes());
            aad.extend(part.as_bytes());
        }
        aad.extend(self.version.to_be_bytes());
        aad
    }

    fn place(&self) -> String {
        format!(
            "the secret {}.{} of {} in project {} (version {})",
            self.kind, self.field, self.id, self.project, self.version
        )
    }
}

/// A sealed secret as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Id of the KEK.
    key: String,
    /// Nonce and wrapped DEK.
    #[serde(with = "as_base64")]
    dek: Vec<u8>,
    /// Nonce and ciphertext.
    #[serde(with = "as_base64")]
    data: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {}, {} bytes)", self.key, self.data.len())
    }
}

mod as_base64 {
    use base64::Engine as _;

    use super::{BASE64, Deserialize};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// One KEK.
struct Kek {
    /// Start of the key's SHA-256: tells keys apart without telling the key.
    id: String,
    key: Zeroizing<[u8; KEY_BYTES]>,
}

impl Kek {
    fn new(key: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let digest = Sha256::new().chain_update(LINE_MARK).chain_update(&key[..]).finalize();
        Self { id: hex::encode(&digest[..8]), key }
    }

    fn generate() -> Result<Self, SecretError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut key[..]).map_err(SecretError::Random)?;
        Ok(Self::new(key))
    }
}

/// Random characters of an alphabet of at most 256, each as likely as the other.
pub fn random_text(alphabet: &[u8], length: usize) -> Result<String, getrandom::Error> {
    let mut text = String::with_capacity(length);
    // Bytes beyond the largest multiple would favour the first letters: they are drawn again.
    let fair = 256 - 256 % alphabet.len();
    let mut byte = [0_u8; 1];
    while text.len() < length {
        getrandom::fill(&mut byte)?;
        let at = usize::from(byte[0]);
        if at < fair {
            text.push(char::from(alphabet[at % alphabet.len()]));
        }
    }
    Ok(text)
}

/// The keys of a server: the first one seals, the others still open what they sealed.
pub struct KeyFile {
    path: PathBuf,
    keys: Vec<Kek>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| &key.id).collect();
        f.debug_struct("KeyFile").field("path", &self.path).field("key_ids", &ids).finish()
    }
}

impl KeyFile {
    /// Reads the key file. At the very first start (`may_create`: there is no data yet) a missing
    /// one is created with a new key and mode 0600.
    pub fn open(path: &Path, data_dir: &Path, may_create: bool) -> Result<Self, SecretError> {
        refuse_inside(path, data_dir)?;
        match fs::metadata(path) {
            Ok(_) => Self::load(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
                let created = Self { path: path.to_owned(), keys: vec![Kek::generate()?] };
                created.save()?;
                Ok(created)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SecretError::Missing { path: path.to_owned() })
            }
            Err(source) => Err(SecretError::Io { path: path.to_owned(), source }),
        }
    }

    fn load(path: &Path) -> Result<Self, SecretError> {
        let io = |source| SecretError::Io { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::TooOpen { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let malformed = || SecretError::Malformed { path: path.to_owned(), line: index + 1 };
            let encoded = line.strip_prefix(LINE_MARK).ok_or_else(malformed)?.trim();
            let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| malformed())?);
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            if bytes.len() != KEY_BYTES {
                return Err(malformed());
            }
            key.copy_from_slice(&bytes);
            keys.push(Kek::new(key));
        }
        if keys.is_empty() {
            return Err(SecretError::Malformed { path: path.to_owned(), line: 1 });
        }
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Replaces the file in one durable step.
    fn save(&self) -> Result<(), SecretError> {
        let mut text = Zeroizing::new(String::new());
        for kek in &self.keys {
            let encoded = Zeroizing::new(BASE64.encode(&kek.key[..]));
            text.push_str(&format!("{LINE_MARK} {}\n", *encoded));
        }
        let run = || -> io::Result<()> {
            let parent = match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            fs::create_dir_all(parent)?;
            let mut new = self.path.clone().into_os_string();
            new.push(".new");
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(parent)?.sync_all()
        };
        run().map_err(|source| SecretError::Io { path: self.path.clone(), source })
    }

    /// Id of the key that seals now.
    pub fn key_id(&self) -> &str {
        &self.keys[0].id
    }

    /// Puts a new key in front and saves the file. Afterwards [`rewrap`](Self::rewrap) every
    /// record, then call [`retire`](Self::retire).
    pub fn rotate(&mut self) -> Result<(), SecretError> {
        self.keys.insert(0, Kek::generate()?);
        self.save().inspect_err(|_| drop(self.keys.remove(0)))
    }

    /// Drops all keys but the first and saves the file.
    pub fn retire(&mut self) -> Result<(), SecretError> {
        let old = self.keys.split_off(1);
        match self.save() {
            Ok(()) => Ok(()),
            Err(error) => {
                self.keys.extend(old);
                Err(error)
            }
        }
    }

    /// Seals a secret for its place.
    pub fn seal(&self, ctx: &SecretContext<'_>, plaintext: &[u8]) -> Result<Sealed, SecretError> {
        let mut dek = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut dek[..]).map_err(SecretError::Random)?;
        let kek = &self.keys[0];
        Ok(Sealed {
            key: kek.id.clone(),
            dek: encrypt(&kek.key, ctx, "dek", &dek[..])?,
            data: encrypt(&dek, ctx, "data", plaintext)?,
        })
    }

    /// Opens a sealed secret; refuses one that was changed or belongs elsewhere.
    pub fn unseal(
        &self,
        ctx: &SecretContext<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let dek = self.unwrap_dek(ctx, sealed)?;
        decrypt(&dek, ctx, "data", &sealed.data)
    }

    /// Wraps the record's key under the first key of the file; the data stays as it is.
    pub fn rewrap(&self, ctx: &SecretContext<'_>, sealed: &Sealed) -> Result<Sealed, SecretError> {
        let dek = self.unwrap_dek(ctx, sealed)?;
        let kek = &self.keys[0];
        Ok(Sealed {
            key: kek.id.clone(),
            dek: encrypt(&kek.key, ctx, "dek", &dek[..])?,
            data: sealed.data.clone(),
        })
    }

    fn unwrap_dek(
        &self,
        ctx: &SecretContext<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, SecretError> {
        let kek = self.keys.iter().find(|kek| kek.id == sealed.key).ok_or_else(|| {
            SecretError::UnknownKey { place: ctx.place(), key_id: sealed.key.clone() }
        })?;
        let bytes = decrypt(&kek.key, ctx, "dek", &sealed.dek)?;
        if bytes.len() != KEY_BYTES {
            return Err(SecretError::Refused { place: ctx.place() });
        }
        let mut dek = Zeroizing::new([0; KEY_BYTES]);
        dek.copy_from_slice(&bytes);
        Ok(dek)
    }
}

fn refuse_inside(path: &Path, data_dir: &Path) -> Result<(), SecretError> {
    // Links are followed as far as the path exists: the file itself may be yet to come.
    let resolve = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        absolute
            .ancestors()
            .find_map(|known| {
                let rest = absolute.strip_prefix(known).ok()?;
                Some(fs::canonicalize(known).ok()?.join(rest))
            })
            .unwrap_or(absolute)
    };
    if resolve(path).starts_with(resolve(data_dir)) {
        return Err(SecretError::InsideDataDir {
            path: path.to_owned(),
            data_dir: data_dir.to_owned(),
        });
    }
    Ok(())
}

fn encrypt(
    key: &[u8; KEY_BYTES],
    ctx: &SecretContext<'_>,
    use_of: &str,
    plaintext: &[u8],
) -> Result<Vec<u8>, SecretError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(SecretError::Random)?;
    let payload = Payload { msg: plaintext, aad: &ctx.aad(use_of) };
    let ciphertext = Aes256Gcm::new(key.into())
        .encrypt(&Nonce::<Aes256Gcm>::from(nonce), payload)
        .map_err(|_| SecretError::Refused { place: ctx.place() })?;
    Ok([&nonce[..], &ciphertext].concat())
}

fn decrypt(
    key: &[u8; KEY_BYTES],
    ctx: &SecretContext<'_>,
    use_of: &str,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let refused = || SecretError::Refused { place: ctx.place() };
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(refused)?;
    let payload = Payload { msg: ciphertext, aad: &ctx.aad(use_of) };
    Aes256Gcm::new(key.into())
        .decrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| refused())
}
