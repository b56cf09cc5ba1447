//! `POST /evenkeel/v1/.../nodepools/{pool}/operation/upgrade/preview`: what the same call without `/preview` would do.
//!
//! It reads and checks as that call does, and writes nothing: not even the answer is kept for a repetition.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::preview as wire;
use evenkeel_engine::action::EvictAnswer;
use evenkeel_engine::ids::NodeName;
use evenkeel_engine::place::Resources;
use evenkeel_engine::preview::bounds::{Bound, Limit};
use evenkeel_engine::preview::capacity::Verdict;
use evenkeel_engine::preview::concern::Concern;
use evenkeel_engine::preview::drift::{Applied, Drift};
use evenkeel_engine::preview::{Basis, NodePlan, Preview};
use evenkeel_engine::sync::{SyncSpec, TargetNode};
use std::collections::BTreeMap;

use super::accept::{self, Facts};
use super::upgrade::{Seen, requested};
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::ports::{Foreseen, PreviewError, Trial};
use crate::http::{ApiState, load};

/// The end of the path of every call that is a POST and changes nothing.
pub(in crate::http) const PATH_END: &str = "/operation/upgrade/preview";

/// Says what a synchronization would do.
pub(in crate::http) async fn preview(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let project = call.project();
    let (id, pool_id, upgrade) =
        requested(&state, project, &cluster, &pool, &headers, &body).await?;
    let Some(seen) = Seen::read(&state, project, &id, &pool_id).await? else {
        let text = format!("Node pool {pool} is being changed at the same time; try again");
        return Err(ApiError::refused(ErrorCode::Locked, text));
    };
    let facts = seen.facts();
    let wish = accept::wish(&state, project, &upgrade, &facts).await?;
    let mut review = accept::review(&state, project, &upgrade, &pool_id, &facts, &wish).await?;
    if !review.found.is_empty() {
        return Err(ApiError::Invalid(review.found));
    }
    let mut missing: Vec<String> =
        std::mem::take(&mut review.lacking).iter().map(ToString::to_string).collect();
    if let Some(job) = &facts.running {
        missing.push(format!("the pool is being synchronized by job {}", job.spec.job));
    }
    let cap = u32::from(state.config.max_unavailable_cap);
    let (ask, ignored_fields) = accept::foresee(&upgrade, &pool_id, &facts, &wish, review, cap);
    let spec = ask.spec.clone();
    let foreseen = state.previews.preview(&id, ask).await.map_err(not_now)?;
    let answer = wire::Preview { missing, ignored_fields, ..shown(&facts, &spec, foreseen) };
    load::json(StatusCode::OK, &answer)
}

fn not_now(error: PreviewError) -> ApiError {
    match error {
        PreviewError::NotSeen(why) => {
            let text = format!("The cluster cannot be seen at the moment ({why}); try again");
            ApiError::refused(ErrorCode::ClusterStateForbids, text)
        }
        PreviewError::Broken(error) => ApiError::internal("a preview could not be made", error),
    }
}

fn shown(facts: &Facts<'_>, spec: &SyncSpec, foreseen: Foreseen) -> wire::Preview {
    let Foreseen { preview, trials, unknown, zones } = foreseen;
    let ids: BTreeMap<&NodeName, &TargetNode> =
        spec.targets.iter().map(|target| (&target.name, target)).collect();
    let Preview { nodes, capacity, bounds, useful, eta, .. } = preview;
    let mut unknown = unknown;
    unknown.extend(bounds.impossible.iter().map(|(budget, node)| {
        format!(
            "node {node} can never be drained: it holds more pods of budget {budget} on its own disk than may be out \
             at once"
        )
    }));
    wire::Preview {
        cluster: facts.cluster.id.to_string(),
        cluster_name: facts.cluster.name.clone(),
        pool: spec.pool.to_string(),
        pool_name: facts.pool.map_or(load::DEFAULT_POOL, |pool| &pool.name).to_owned(),
        revision: spec.revision.to_string(),
        max_unavailable: spec.max_unavailable,
        basis: match eta.basis {
            Basis::Learned => "learned",
            Basis::Assumed => "assumed",
        }
        .to_owned(),
        unknown,
        nodes: nodes
            .into_iter()
            .map(|plan| {
                let zone = zones.get(&plan.name).map(ToString::to_string).unwrap_or_default();
                let id = ids.get(&plan.name).map(|t| t.id.to_string()).unwrap_or_default();
                node(plan, id, zone)
            })
            .collect(),
        skipped_nodes: spec.skipped.iter().map(|node| node.name.to_string()).collect(),
        capacity: room(&capacity, spec),
        bounds: bounds.all.iter().map(bound).collect(),
        eta: wire::Eta {
            low_seconds: eta.low.as_secs(),
            likely_seconds: eta.likely.as_secs(),
            high_seconds: eta.high.as_secs(),
        },
        useful: wire::Useful { max_unavailable: useful.max_unavailable, sentence: useful.sentence },
        trials: trials.into_iter().map(trial).collect(),
        ..wire::Preview::default()
    }
}

fn node(plan: NodePlan, node_id: String, zone: String) -> wire::Node {
    let seconds = |time: evenkeel_engine::time::Span| time.as_secs();
    wire::Node {
        node_id,
        name: plan.name.to_string(),
        zone,
        rule: plan.rule.unwrap_or_default(),
        start_seconds: plan.start.map(seconds),
        end_seconds: plan.end.map(seconds),
        drift: plan.drift.into_iter().map(drift).collect(),
        moves: plan.moves.iter().map(|one| one.pod.to_string()).collect(),
        stays: plan.stays,
        concerns: plan.concerns.into_iter().map(concern).collect(),
    }
}

fn drift(drift: Drift) -> wire::Drift {
    let applied = match drift.applied {
        Applied::InPlace => "inPlace",
        Applied::Reset => "reset",
        Applied::NewNodesOnly => "newNodesOnly",
    };
    let Drift { field, wanted, found, .. } = drift;
    wire::Drift { field, wanted, found, applied: applied.to_owned() }
}

fn concern(concern: Concern) -> wire::Concern {
    wire::Concern {
        pod: concern.pod.to_string(),
        budget: concern.budget.map(|budget| budget.to_string()),
        kind: concern.kind.word().to_owned(),
        blocks: concern.kind.blocks(),
        why: concern.why,
    }
}

fn resources(amount: &Resources) -> wire::Resources {
    wire::Resources { cpu_milli: amount.cpu_m, memory_bytes: amount.memory, pods: amount.pods }
}

fn room(verdict: &Verdict, spec: &SyncSpec) -> wire::Capacity {
    wire::Capacity {
        nodes: verdict.k_cap,
        limits: verdict.limits(spec.max_unavailable),
        sentence: verdict.sentence(spec.max_unavailable),
        offered: resources(&verdict.offered),
        requested: resources(&verdict.requested),
    }
}

fn bound(bound: &Bound) -> wire::Bound {
    let what = match &bound.limit {
        None => String::new(),
        Some(Limit::Node(node)) => format!("node {node}"),
        Some(Limit::Slots) => "maxUnavailable".to_owned(),
        Some(Limit::Budget(budget)) => format!("budget {budget}"),
        Some(Limit::Pinned(budget)) => format!("budget {budget}, pods on local disks"),
        Some(Limit::Zone(zone)) => format!("zone {zone}"),
        Some(Limit::Capacity) => "room on the other nodes".to_owned(),
    };
    wire::Bound { name: bound.name.to_owned(), seconds: bound.span.as_secs(), what }
}

fn trial(trial: Trial) -> wire::Trial {
    let (answer, message) = match trial.answer {
        Some(EvictAnswer::Accepted) => ("allowed", String::new()),
        Some(EvictAnswer::Gone) => ("gone", String::new()),
        Some(EvictAnswer::Refused { message, .. }) => ("refused", message),
        Some(EvictAnswer::Impossible { message }) => ("impossible", message),
        None => ("unanswered", trial.trouble),
    };
    wire::Trial {
        pod: trial.pod.to_string(),
        budget: trial.budget.map(|budget| budget.to_string()),
        answer: answer.to_owned(),
        message,
    }
}
