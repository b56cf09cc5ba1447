//! `.../nodepools/{pool}/configuration`: parameters of kubelet and runtime.

pub(in crate::http) mod detail;
pub(in crate::http) mod show;
pub(in crate::http) mod update;

use evenkeel_api::ErrorCode;

use crate::http::ApiState;
use crate::http::auth::Call;
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL, Stored};
use crate::records::PoolRecord;

/// The pool of a path. `DefaultPool` stores no configuration.
async fn pool(
    state: &ApiState,
    call: &Call,
    cluster: &str,
    pool: &str,
) -> Result<Stored<PoolRecord>, ApiError> {
    let cluster = load::cluster(&*state.store, call.project(), cluster).await?.record;
    if pool == DEFAULT_POOL {
        let text = "DefaultPool stores no configuration; create a pool and move its nodes there";
        return Err(ApiError::refused(ErrorCode::Forbidden, text));
    }
    load::pool(&*state.store, call.project(), &cluster.id, pool).await
}
