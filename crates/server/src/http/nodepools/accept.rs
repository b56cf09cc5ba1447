//! What an acceptable request turns into: an immutable job header with a frozen list of nodes.
//!
//! Entry points: [`wish`], [`offer`] and [`writes`]. Nothing is stored before the one transaction.

use std::collections::BTreeSet;

use evenkeel_api::Violation;
use evenkeel_api::job::Job;
use evenkeel_api::password::Secret;
use evenkeel_api::upgrade::Upgrade;
use evenkeel_engine::ids::{ClusterId, JobId, NodeId, NodeName, PoolId, TemplateRevision};
use evenkeel_engine::place::Taint;
use evenkeel_engine::preview::Ask;
use evenkeel_engine::preview::drift::Wanted;
use evenkeel_engine::sync::{Status, Sync, SyncSpec, SyncState};

use super::check;
use super::fingerprint::fingerprint;
use super::template::{self, Clear};
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::vault::{self, TemplateField, TemplateOwner};
use crate::http::{ApiState, convert, load};
use crate::records::{
    self, ClusterRecord, DefaultTemplateRecord, JobIndexRecord, JobRecord, NodeRecord, PlaceRecord,
    PoolRecord, Recipe, keys,
};
use crate::store::Txn;

/// What the store said, read in one go.
pub(super) struct Facts<'a> {
    pub(super) cluster: &'a ClusterRecord,
    /// Absent for `DefaultPool`.
    pub(super) pool: Option<&'a PoolRecord>,
    pub(super) nodes: &'a [NodeRecord],
    /// Nodes of the cluster that are reached through an agent; the probe names those that nothing reaches.
    pub(super) agents: &'a BTreeSet<NodeId>,
    /// The job that holds the pool now.
    pub(super) running: Option<&'a JobRecord>,
}

/// A job that could be accepted.
pub(super) struct Offer {
    pub(super) record: JobRecord,
    pub(super) state: SyncState,
    pub(super) pool_name: String,
    default_template: Option<DefaultTemplateRecord>,
}

/// What a request asks for, in the form in which two requests are compared.
pub(super) struct Wish {
    clear: Clear,
    revision: TemplateRevision,
    /// Equal for requests that mean the same.
    pub(super) fingerprint: String,
}

impl Wish {
    /// The revision that the nodes are to carry.
    pub(super) fn revision(&self) -> &TemplateRevision {
        &self.revision
    }
}

/// The label by which CCE's nodes name their pool.
const POOL_LABEL: &str = "cce.cloud.com/cce-nodepool";

/// Template, revision and fingerprint: the pool's own template, or for `DefaultPool` that of the request.
pub(super) async fn wish(
    state: &ApiState,
    project: &str,
    upgrade: &Upgrade,
    facts: &Facts<'_>,
) -> Result<Wish, ApiError> {
    let (clear, revision) = match (facts.pool, &upgrade.template) {
        (Some(pool), _) => {
            let owner = TemplateOwner::Pool(&pool.id);
            let clear = Clear::open(state, project, owner, &pool.template)?;
            (clear, pool.revision.clone())
        }
        (None, Some(sent)) => {
            let known = known_hash(state, project, facts).await?;
            let mut clear = Clear::of_request(state, sent, known.as_ref()).await?;
            let revision = clear.settle_request(sent);
            (clear, revision)
        }
        (None, None) => {
            let rule = "is mandatory for DefaultPool, which has no template of its own";
            let violation = Violation::new("spec.nodeTemplate", rule);
            let violation = violation.with_way_out("send it with lifeCycle and login");
            return Err(ApiError::invalid(violation));
        }
    };
    let fingerprint = fingerprint(upgrade, &revision, clear.wait_post_install, &clear.initialized);
    Ok(Wish { clear, revision, fingerprint })
}

/// What a request comes to when it is held against the store.
pub(super) struct Review {
    recipe: Recipe,
    /// What the cluster lacks before any of its nodes can be reset.
    pub(super) lacking: Vec<Violation>,
    /// What is wrong with the request.
    pub(super) found: Vec<Violation>,
    pub(super) targets: check::Targets,
    authorized_keys: Option<Vec<String>>,
}

/// Holds a request against the store: all that a request must pass, whether it is to be carried out or only previewed.
pub(super) async fn review(
    state: &ApiState,
    project: &str,
    upgrade: &Upgrade,
    pool: &PoolId,
    facts: &Facts<'_>,
    wish: &Wish,
) -> Result<Review, ApiError> {
    let (mut lacking, mut found) = (Vec::new(), Vec::new());
    let recipe = check::recipe(facts.cluster, !facts.agents.is_empty(), &mut lacking);
    let authorized_keys = login_keys(state, project, &wish.clear, facts, &mut found).await?;
    let snapshot = state.board.get(&facts.cluster.id);
    let view = snapshot.as_deref();
    let targets = check::targets(upgrade, pool, facts.nodes, &wish.revision, view, &mut found);
    let image = wish.clear.image.as_ref();
    check::image(facts.cluster, facts.nodes, &targets, image, &mut found);
    check::reimage(facts.cluster, &targets, facts.agents, &mut found);
    check::configuration(facts.cluster, facts.pool, &mut found);
    Ok(Review { recipe, lacking, found, targets, authorized_keys })
}

/// What a review that found nothing wrong is asked of the engine.
pub(super) fn foresee(
    upgrade: &Upgrade,
    pool: &PoolId,
    facts: &Facts<'_>,
    wish: &Wish,
    review: Review,
    cap: u32,
) -> (Ask, Vec<String>) {
    let ignored = ignored(upgrade, &review.recipe);
    let resets = facts.cluster.recipe != Some(Recipe::None);
    let spec = spec(upgrade, pool, facts, wish, review.targets, resets);
    let mut labels = wish.clear.dress.labels.clone();
    if let Some(pool) = facts.pool {
        labels.insert(POOL_LABEL.to_owned(), pool.name.clone());
    }
    let taint = |taint: &records::Taint| Taint {
        key: taint.key.as_str().into(),
        value: taint.value.as_str().into(),
        effect: taint.effect.as_str().into(),
    };
    let taints = wish.clear.dress.taints.iter().map(taint).collect();
    let carried = facts.nodes.iter().filter(|node| node.applied.is_some());
    let carried = carried.map(|node| (NodeName::new(&node.name), node.carries.clone())).collect();
    let wanted = Wanted { parts: wish.clear.parts.clone(), labels, taints };
    (Ask { spec, wanted, cap, carried }, ignored)
}

/// Checks a request against the store and builds its job; every violation in one answer.
pub(super) async fn offer(
    state: &ApiState,
    call: &Call,
    upgrade: &Upgrade,
    pool: &PoolId,
    facts: &Facts<'_>,
    wish: Wish,
) -> Result<Offer, ApiError> {
    let project = call.project();
    let Review { recipe, mut lacking, found, targets, authorized_keys } =
        review(state, project, upgrade, pool, facts, &wish).await?;
    lacking.extend(found);
    if !lacking.is_empty() {
        return Err(ApiError::Invalid(lacking));
    }
    let accepted = load::cluster_time(state, project, &facts.cluster.id).await?;
    let status =
        if targets.targets.is_empty() { Status::Success { at: accepted } } else { Status::Running };
    let default_template = default_template(state, project, facts, &wish.clear)?;
    let spec = spec(upgrade, pool, facts, &wish, targets, recipe != Recipe::None);
    let owner = TemplateOwner::Job(&spec.job);
    let mut template = wish.clear.seal(state, project, owner)?;
    if let Some(pool) = facts.pool {
        // CCE's own link from a Node to its pool.
        template.dress.labels.insert(POOL_LABEL.to_owned(), pool.name.clone());
    }
    let record = JobRecord {
        template,
        spec,
        ignored: ignored(upgrade, &recipe),
        recipe,
        fingerprint: wish.fingerprint,
        requested_by: call.requested_by(),
        request_id: call.request_id.to_string(),
        accepted_ms: (state.clock)(),
        authorized_keys,
    };
    let pool_name = facts.pool.map_or(load::DEFAULT_POOL, |pool| pool.name.as_str());
    Ok(Offer {
        record,
        state: SyncState { status, accepted, stalled_since: None },
        pool_name: pool_name.to_owned(),
        default_template,
    })
}

fn spec(
    upgrade: &Upgrade,
    pool: &PoolId,
    facts: &Facts<'_>,
    wish: &Wish,
    targets: check::Targets,
    resets: bool,
) -> SyncSpec {
    let proven = facts.pool.and_then(|pool| pool.proven.as_ref());
    SyncSpec {
        job: JobId::new(uuid::Uuid::new_v4().to_string()),
        pool: pool.clone(),
        revision: wish.revision.clone(),
        targets: targets.targets,
        skipped: targets.skipped,
        named: upgrade.node_ids.is_some(),
        max_unavailable: u32::from(upgrade.max_unavailable),
        retry_times: u32::from(upgrade.retry_times),
        force: upgrade.force,
        resets,
        post_install: wish.clear.post_install.is_some(),
        wait_post_install: wish.clear.wait_post_install,
        initialized: wish.clear.initialized.clone(),
        proven: proven == Some(&wish.revision),
        policy: facts.cluster.policy.clone(),
    }
}

/// The public keys of the key pair that the template names, as they are now.
async fn login_keys(
    state: &ApiState,
    project: &str,
    clear: &Clear,
    facts: &Facts<'_>,
    found: &mut Vec<Violation>,
) -> Result<Option<Vec<String>>, ApiError> {
    let Some(name) = &clear.ssh_key else {
        return Ok(None);
    };
    let field = match facts.pool {
        None => "spec.nodeTemplate.login.sshKey",
        Some(_) => "the pool's spec.nodeTemplate.login.sshKey",
    };
    match template::keypair(state, project, name, field).await? {
        Ok(keys) => Ok(Some(keys)),
        Err(violation) => {
            found.push(violation);
            Ok(None)
        }
    }
}

fn default_template(
    state: &ApiState,
    project: &str,
    facts: &Facts<'_>,
    clear: &Clear,
) -> Result<Option<DefaultTemplateRecord>, ApiError> {
    let (None, Some(hash)) = (facts.pool, &clear.password_hash) else {
        return Ok(None);
    };
    let owner = TemplateOwner::Default(&facts.cluster.id);
    let place = vault::template(project, owner, TemplateField::Password);
    let password = vault::seal(state, &place, hash.expose())?;
    Ok(Some(DefaultTemplateRecord { password }))
}

/// The hash that the same clear password was turned into before: of the running job, else of the last one.
async fn known_hash(
    state: &ApiState,
    project: &str,
    facts: &Facts<'_>,
) -> Result<Option<Secret>, ApiError> {
    if let Some(job) = facts.running {
        let owner = TemplateOwner::Job(&job.spec.job);
        return Ok(Clear::open(state, project, owner, &job.template)?.password_hash);
    }
    let key = keys::default_template(project, &facts.cluster.id);
    let Some(last) = load::find::<DefaultTemplateRecord>(&*state.store, key).await? else {
        return Ok(None);
    };
    let place = vault::template(
        project,
        TemplateOwner::Default(&facts.cluster.id),
        TemplateField::Password,
    );
    vault::open(state, &place, &last.record.password).map(Some)
}

/// What was sent and has no effect here.
fn ignored(upgrade: &Upgrade, recipe: &Recipe) -> Vec<String> {
    let mut fields = Vec::new();
    if let Some(template) = &upgrade.template {
        let prefixed = |field: String| format!("spec.nodeTemplate.{field}");
        fields.extend(template.ignored_fields(&upgrade.pool).into_iter().map(prefixed));
    }
    // Only the recipe `kubeadm` empties directories itself; elsewhere there is nothing to retain or not.
    let field = "spec.nodeTemplate.volumeConfig.volumeResetPolicy";
    let is_sent = upgrade.template.as_ref().is_some_and(|template| {
        let policy = |sent: &String| sent.eq_ignore_ascii_case("volumeConfig.volumeResetPolicy");
        template.fields.iter().any(policy)
    });
    let is_listed = |fields: &[String]| fields.iter().any(|f| f.eq_ignore_ascii_case(field));
    if is_sent && !matches!(recipe, Recipe::Kubeadm(_)) && !is_listed(&fields) {
        fields.push(field.to_owned());
    }
    if upgrade.validate_storage {
        fields.push("spec.validateStorage".to_owned());
    }
    fields
}

/// The job as it is answered at acceptance.
pub(super) fn answer(cluster: &ClusterRecord, offer: &Offer, now_ms: i64) -> Job {
    let sync = Sync::new(offer.record.spec.clone(), offer.state.clone(), []);
    convert::job(&convert::JobView {
        cluster: cluster.id.as_str(),
        pool_name: &offer.pool_name,
        record: &offer.record,
        sync: &sync,
        report: None,
        wall: &|_| now_ms,
    })
}

/// Adds the writes of an acceptance to its transaction. A job with nothing to do takes no right on the pool.
pub(super) fn writes(txn: Txn, project: &str, cluster: &ClusterId, offer: &Offer) -> Txn {
    let spec = &offer.record.spec;
    let index = JobIndexRecord { cluster: cluster.clone() };
    let place = PlaceRecord { project: project.to_owned(), cluster: cluster.clone() };
    let mut txn = txn
        .put(keys::job(project, cluster, &spec.job), records::encode(&offer.record))
        .put(keys::job_state(project, cluster, &spec.job), records::encode(&offer.state))
        .put(keys::job_index(project, &spec.job), records::encode(&index))
        .put(keys::job_place(&spec.job), records::encode(&place));
    if offer.state.status == Status::Running {
        txn = txn.put(keys::active(project, cluster, &spec.pool), records::encode(&spec.job));
    }
    if let Some(template) = &offer.default_template {
        txn = txn.put(keys::default_template(project, cluster), records::encode(template));
    }
    txn
}
