//! `GET` and `PUT /evenkeel/v1/projects/{project}/clusters/{cluster}/nodepools/{pool}/policy`: when nodes of a pool may be
//! taken. A part that is left out stays as it is; a change holds for a running synchronization at once.
//!
//! ```json
//! {"windows": [{"days": ["Mon-Fri"], "from": "21:00", "to": "05:00", "timeZone": "Europe/Berlin"},
//!              {"cron": "0 22 * * Sat", "durationSeconds": 14400, "timeZone": "Europe/Berlin"}],
//!  "soakSeconds": 600, "strictCapacity": false}
//! ```

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use evenkeel_api::json::{At, parse_request};
use evenkeel_api::meta::iam_time;
use evenkeel_api::{ErrorCode, Violation};
use evenkeel_engine::ids::{ClusterId, PoolId};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL, Stored};
use crate::records::{self, PaceRecord, keys};
use crate::store::Txn;
use crate::windows::{self, Stand, Window};

/// Most windows of a pool: one for each day and hour of a week is more than anybody reads.
const WINDOWS_MAX: usize = 50;
/// Longest soak time: a week, as the longest window.
const SOAK_MAX_S: i64 = 7 * 86_400;
/// How often it is done again over a record that changed meanwhile.
const TRIES: usize = 5;

/// The pace of a pool.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let (cluster, pool) = find(&state, &call, &cluster, &pool).await?;
    let stored = read(&state, &call, &cluster, &pool).await?;
    let record = stored.map(|stored| stored.record).unwrap_or_default();
    load::json(StatusCode::OK, &shown(&pool, &record, moment(&state)))
}

/// Sets it.
pub(in crate::http) async fn set(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    Path((_, cluster, pool)): Path<(String, String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (cluster, pool) = find(&state, &call, &cluster, &pool).await?;
    let request = parse_request(&body).map_err(ApiError::Invalid)?;
    let now = moment(&state);
    let asked = asked(&At::root(&request), now)?;
    for _ in 0..TRIES {
        let stored = read(&state, &call, &cluster, &pool).await?;
        let key = keys::pace(call.project(), &cluster, &pool);
        let txn = match &stored {
            Some(stored) => Txn::new().when_mod_revision(&key, stored.revision),
            None => Txn::new().when_absent(&key),
        };
        let old = stored.map(|stored| stored.record).unwrap_or_default();
        let record = PaceRecord {
            windows: asked.windows.clone().unwrap_or(old.windows),
            soak_s: asked.soak_s.unwrap_or(old.soak_s),
            strict_capacity: asked.strict_capacity.unwrap_or(old.strict_capacity),
            updated_by: call.requested_by(),
            updated_ms: now.as_millisecond(),
        };
        if state.store.txn(txn.put(key, records::encode(&record))).await?.succeeded {
            return load::json(StatusCode::OK, &shown(&pool, &record, now));
        }
    }
    Err(ApiError::refused(
        ErrorCode::StaleVersion,
        "The pool's policy is being changed by others at the same time; try again",
    ))
}

fn moment(state: &ApiState) -> Timestamp {
    Timestamp::from_millisecond((state.clock)()).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn find(
    state: &ApiState,
    call: &Call,
    cluster: &str,
    pool: &str,
) -> Result<(ClusterId, PoolId), ApiError> {
    let cluster = load::cluster(&*state.store, call.project(), cluster).await?.record.id;
    if pool != DEFAULT_POOL {
        load::pool(&*state.store, call.project(), &cluster, pool).await?;
    }
    Ok((cluster, PoolId::new(pool)))
}

async fn read(
    state: &ApiState,
    call: &Call,
    cluster: &ClusterId,
    pool: &PoolId,
) -> Result<Option<Stored<PaceRecord>>, ApiError> {
    load::find(&*state.store, keys::pace(call.project(), cluster, pool)).await
}

fn shown(pool: &PoolId, record: &PaceRecord, now: Timestamp) -> Value {
    let stand = windows::stand(&record.windows, now);
    let (open, words) = match stand {
        Stand::Open => (true, None),
        Stand::Closed { words, .. } => (false, Some(words)),
    };
    json!({
        "pool": pool,
        "windows": record.windows,
        "soakSeconds": record.soak_s,
        "strictCapacity": record.strict_capacity,
        "open": open,
        "closedBecause": words,
        "updatedBy": (record.updated_ms > 0).then_some(&record.updated_by),
        "updatedAt": (record.updated_ms > 0).then(|| iam_time(record.updated_ms)),
    })
}

/// What a request changes.
struct Asked {
    windows: Option<Vec<Window>>,
    soak_s: Option<u32>,
    strict_capacity: Option<bool>,
}

fn asked(root: &At<'_>, now: Timestamp) -> Result<Asked, ApiError> {
    let mut found = Vec::new();
    let windows = root.get("windows").map(|at| {
        let items = at.items(&mut found).unwrap_or_default();
        if items.len() > WINDOWS_MAX {
            let rule = format!("has more than {WINDOWS_MAX} entries");
            found.push(at.violation(rule).with_way_out("send fewer windows"));
        }
        items.iter().filter_map(|at| window(at, now, &mut found)).collect()
    });
    let soak = root.get("soakSeconds").and_then(|at| at.integer(0, SOAK_MAX_S, &mut found));
    let strict_capacity = root.get("strictCapacity").and_then(|at| at.boolean(&mut found));
    if ["windows", "soakSeconds", "strictCapacity"].iter().all(|key| root.get(key).is_none()) {
        found.push(Violation::new("body", "has none of windows, soakSeconds and strictCapacity"));
    }
    if !found.is_empty() {
        return Err(ApiError::Invalid(found));
    }
    Ok(Asked { windows, soak_s: soak.and_then(|s| u32::try_from(s).ok()), strict_capacity })
}

fn window(at: &At<'_>, now: Timestamp, found: &mut Vec<Violation>) -> Option<Window> {
    let at = at.object(found)?;
    let text = |key: &str, found: &mut Vec<Violation>| {
        at.get(key).and_then(|at| at.string(found)).map(str::to_owned)
    };
    let before = found.len();
    let zone = text("timeZone", found).unwrap_or_else(|| "UTC".to_owned());
    let made = match text("cron", found) {
        Some(cron) => {
            let lasts = at.get("durationSeconds");
            let lasts = lasts.and_then(|at| at.integer(0, i64::from(u32::MAX), found));
            let lasts = lasts.and_then(|s| u32::try_from(s).ok());
            Window::cron(&cron, lasts, &zone, now)
        }
        None => {
            let days = at.get("days").and_then(|at| at.items(found)).unwrap_or_default();
            let days: Vec<String> =
                days.iter().filter_map(|at| at.string(found)).map(str::to_owned).collect();
            let (from, to) = (text("from", found), text("to", found));
            let (Some(from), Some(to)) = (from, to) else {
                if found.len() == before {
                    let violation = at.violation("has neither cron nor from and to");
                    found.push(violation.with_way_out("send days, from and to, or cron"));
                }
                return None;
            };
            Window::daily(&days, &from, &to, &zone, now)
        }
    };
    if found.len() > before {
        return None;
    }
    match made {
        Ok(window) => Some(window),
        Err(error) => {
            let violation = Violation::new(at.child_path(error.field), error.rule);
            found.push(violation.with_way_out(error.way_out));
            None
        }
    }
}
