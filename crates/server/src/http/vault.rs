//! Which place every sealed field of this API belongs to, and sealing and opening there.
//!
//! Entry points: [`seal`], [`open`] and the places. Whoever opens what a handler sealed (or seals what a handler opens)
//! names the same place.

use evenkeel_api::password::Secret;
use evenkeel_engine::ids::{ClusterId, JobId, PoolId};

use super::ApiState;
use super::error::ApiError;
use super::replay::ReplayKey;
use crate::records::Recipe;
use crate::secrets::{Sealed, SecretContext};

/// Version of every secret here: a record is replaced as a whole, never one of its secrets alone.
const VERSION: u64 = 1;

/// The SK of an access key.
pub fn access_key<'a>(project: &'a str, ak: &'a str) -> SecretContext<'a> {
    at(project, "access-key", ak, "secret")
}

/// A cluster's kubeconfig.
pub fn kubeconfig<'a>(project: &'a str, cluster: &'a ClusterId) -> SecretContext<'a> {
    at(project, "cluster", cluster.as_str(), "kubeconfig")
}

/// The controller's private key for a cluster's machines.
pub fn private_key<'a>(project: &'a str, cluster: &'a ClusterId) -> SecretContext<'a> {
    at(project, "cluster", cluster.as_str(), "privateKey")
}

/// The commands of a cluster's recipe. The copies in its jobs stay bound to the cluster.
pub fn recipe<'a>(project: &'a str, cluster: &'a ClusterId) -> SecretContext<'a> {
    at(project, "cluster", cluster.as_str(), "recipe")
}

/// A secret of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateField {
    /// The pre-install script.
    PreInstall,
    /// The post-install script.
    PostInstall,
    /// The password hash.
    Password,
}

impl TemplateField {
    fn name(self) -> &'static str {
        match self {
            Self::PreInstall => "preInstall",
            Self::PostInstall => "postInstall",
            Self::Password => "password",
        }
    }
}

/// Whose template it is.
#[derive(Clone, Copy, Debug)]
pub enum TemplateOwner<'a> {
    /// A pool's.
    Pool(&'a PoolId),
    /// A job's, frozen at acceptance.
    Job(&'a JobId),
    /// The last one asked for in a cluster's `DefaultPool`.
    Default(&'a ClusterId),
}

/// A secret of a template.
pub fn template<'a>(
    project: &'a str,
    owner: TemplateOwner<'a>,
    field: TemplateField,
) -> SecretContext<'a> {
    let (kind, id) = match owner {
        TemplateOwner::Pool(id) => ("pool", id.as_str()),
        TemplateOwner::Job(id) => ("job", id.as_str()),
        TemplateOwner::Default(id) => ("default-template", id.as_str()),
    };
    at(project, kind, id, field.name())
}

pub(super) fn replay(key: &ReplayKey) -> SecretContext<'_> {
    at(&key.project, "replay", &key.signature, "body")
}

fn at<'a>(project: &'a str, kind: &'a str, id: &'a str, field: &'a str) -> SecretContext<'a> {
    SecretContext { project, kind, id, field, version: VERSION }
}

/// Seals a text for its place.
pub(super) fn seal(
    state: &ApiState,
    place: &SecretContext<'_>,
    clear: &str,
) -> Result<Sealed, ApiError> {
    let sealed = state.secrets.seal(place, clear.as_bytes());
    sealed.map_err(|error| ApiError::internal("a secret could not be sealed", error))
}

/// Seals the commands of a recipe.
pub(super) fn seal_recipe(
    state: &ApiState,
    project: &str,
    cluster: &ClusterId,
    clear: Recipe,
) -> Result<Recipe, ApiError> {
    let place = recipe(project, cluster);
    clear.map_commands(|command| {
        let sealed = seal(state, &place, &command)?;
        serde_json::to_string(&sealed)
            .map_err(|error| ApiError::internal("a sealed command could not be written", error))
    })
}

/// Opens a text that was sealed for its place.
pub(super) fn open(
    state: &ApiState,
    place: &SecretContext<'_>,
    sealed: &Sealed,
) -> Result<Secret, ApiError> {
    let bytes = state.secrets.unseal(place, sealed);
    let bytes = bytes.map_err(|error| ApiError::internal("a secret could not be opened", error))?;
    let text = std::str::from_utf8(&bytes);
    text.map(Secret::new).map_err(|error| ApiError::internal("a secret is not text", error))
}
