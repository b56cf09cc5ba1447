//! When two requests are the same request: same pool, same template revision, same spec with sets sorted and defaults
//! filled in.

use evenkeel_api::upgrade::{PoolRef, Upgrade, VolumeReset};
use evenkeel_engine::ids::TemplateRevision;
use evenkeel_engine::sync::Awaited;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The fingerprint of a request. The template is in it through `revision`; a clear password has to be a hash by now.
pub(super) fn fingerprint(
    upgrade: &Upgrade,
    revision: &TemplateRevision,
    wait_post_install: bool,
    initialized: &[Awaited],
) -> String {
    let sorted = |ids: &[String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| id.to_ascii_lowercase()).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    // In a custom pool the template of the request has no effect, so it makes no difference either.
    let template = upgrade.template.as_ref().filter(|_| upgrade.pool == PoolRef::Default);
    let retain =
        template.is_some_and(|template| template.volume_reset == VolumeReset::RetainCustomVolumes);
    let normal = json!([
        "evenkeel-sync-1",
        upgrade.pool.as_str(),
        revision,
        upgrade.max_unavailable,
        upgrade.node_ids.as_deref().map(sorted),
        sorted(&upgrade.skipped_nodes),
        upgrade.retry_times,
        upgrade.force,
        upgrade.validate_storage,
        wait_post_install,
        initialized,
        retain,
    ]);
    hex::encode(Sha256::digest(normal.to_string().as_bytes()))
}
