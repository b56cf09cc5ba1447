//! The first start makes a project, a user and an access key, and tells them once.

use crate::http::vault;
use crate::records::{self, AccessKeyRecord, ProjectRecord, UserRecord, keys};
use crate::secrets::{KeyFile, SecretError, random_text};
use crate::store::{Page, Store, StoreError, Txn};
use argon2::Argon2;
use argon2::PasswordHasher;
use std::net::SocketAddr;

/// As long as Huawei Cloud's: 20 and 40 characters.
const AK_LEN: usize = 20;
const SK_LEN: usize = 40;
const AK_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const SK_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// 24 characters of 62 are 143 bits.
const PASSWORD_LEN: usize = 24;

/// Why there is no first credential.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The key file.
    #[error("the secret key could not be sealed")]
    Secrets(#[source] SecretError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random(#[source] getrandom::Error),
    /// The password could not be hashed.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// The first credential. Told once; only hashes and sealed forms are kept.
#[derive(Clone)]
pub struct Bootstrap {
    /// Project id.
    pub project_id: String,
    /// User name.
    pub user: String,
    /// Its password, for `POST /v3/auth/tokens`.
    pub password: String,
    /// Access key.
    pub ak: String,
    /// Secret key.
    pub sk: String,
}

impl Bootstrap {
    /// Tells it to the person who started the server.
    #[expect(clippy::print_stdout, reason = "the credential is shown once, and never logged")]
    pub fn print(&self, address: SocketAddr, tls: bool) {
        let scheme = if tls { "https" } else { "http" };
        println!("First start: this credential is shown once.");
        println!("  endpoint    {scheme}://{address}");
        println!("  project id  {}", self.project_id);
        println!("  AK          {}", self.ak);
        println!("  SK          {}", self.sk);
        println!("  user        {}", self.user);
        println!("  password    {}", self.password);
    }
}

/// Makes the first credential unless there is one.
pub async fn ensure(
    store: &dyn Store,
    secrets: &KeyFile,
    region: &str,
) -> Result<Option<Bootstrap>, BootstrapError> {
    let existing =
        store.list("access-keys/", Page::first(1)).await.map_err(BootstrapError::Store)?;
    if !existing.items.is_empty() {
        return Ok(None);
    }
    let made = Bootstrap {
        project_id: uuid::Uuid::new_v4().simple().to_string(),
        user: "admin".to_owned(),
        password: random_text(SK_ALPHABET, PASSWORD_LEN).map_err(BootstrapError::Random)?,
        ak: random_text(AK_ALPHABET, AK_LEN).map_err(BootstrapError::Random)?,
        sk: random_text(SK_ALPHABET, SK_LEN).map_err(BootstrapError::Random)?,
    };
    let domain_id = uuid::Uuid::new_v4().simple().to_string();
    let project = ProjectRecord {
        id: made.project_id.clone(),
        name: region.to_owned(),
        domain_id,
        domain_name: "evenkeel".to_owned(),
    };
    let password_hash = Argon2::default()
        .hash_password(made.password.as_bytes())
        .map_err(|e| BootstrapError::Hash(e.to_string()))?
        .to_string();
    let user = UserRecord {
        id: uuid::Uuid::new_v4().simple().to_string(),
        name: made.user.clone(),
        password_hash,
        project: project.id.clone(),
    };
    let secret = secrets
        .seal(&vault::access_key(&project.id, &made.ak), made.sk.as_bytes())
        .map_err(BootstrapError::Secrets)?;
    let key = AccessKeyRecord {
        ak: made.ak.clone(),
        secret,
        project: project.id.clone(),
        user: user.name.clone(),
        enabled: true,
    };
    let txn = Txn::new()
        .put(keys::project(&project.id), records::encode(&project))
        .put(keys::user(&user.name), records::encode(&user))
        .put(keys::access_key(&key.ak), records::encode(&key));
    store.txn(txn).await.map_err(BootstrapError::Store)?;
    Ok(Some(made))
}
