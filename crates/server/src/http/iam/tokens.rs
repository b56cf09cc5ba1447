//! `POST /v3/auth/tokens` (public: it carries its own password) and `GET /v3/auth/tokens`.

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use evenkeel_api::ErrorCode;
use evenkeel_api::iam::{
    Identity, NameOrId, Named, ProjectRef, Scope, TokenAnswer, TokenBody, TokenRequest, UserRef,
};
use evenkeel_api::meta::iam_time;
use evenkeel_api::password::Secret;
use evenkeel_api::sign::SignError;
use tokio::sync::Semaphore;

use crate::http::auth::{self, Call};
use crate::http::error::ApiError;
use crate::http::{ApiState, load};
use crate::records::{self, ProjectRecord, TokenRecord, UserRecord, keys};
use crate::store::Txn;

/// Password checks at the same time: each takes 19 MiB and a core for tens of milliseconds, and anybody may ask.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// A hash that no password fits, so that an unknown user costs the same work as a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$Ao3AcVpSnDqFFWB0K1Uow8AdHHmOTv1yMP9Sq5d9oLY";

/// Changes a password or a token into a token.
pub(in crate::http) async fn create(
    State(state): State<ApiState>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = TokenRequest::parse(&body).map_err(ApiError::Invalid)?;
    let now = (state.clock)();
    let full = now + i64::try_from(state.config.token_ttl.as_millis()).unwrap_or(i64::MAX / 2);
    let (user, project, method, expires_ms) = match &request.identity {
        Identity::Password { user, domain, password } => {
            let (user, project) = by_password(&state, user, domain.as_deref(), password).await?;
            (user, project, "password", full)
        }
        Identity::Token(token) => {
            // A token begets tokens that live as long as itself: otherwise one would live forever.
            let old = auth::token_record(&state, token.expose()).await?;
            let user = find_user(&state, &old.user).await?.ok_or_else(denied)?;
            let project = find_project(&state, &user.project).await?;
            (user, project, "token", old.expires_ms.min(full))
        }
    };
    let by_domain = check_scope(request.scope.as_ref(), &project)?;
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| ApiError::internal("no random bytes for a token", error))?;
    let token = Secret::new(hex::encode(bytes));
    let record = TokenRecord { project: project.id.clone(), user: user.name.clone(), expires_ms };
    let ttl =
        std::time::Duration::from_millis(u64::try_from(expires_ms - now).unwrap_or(0).max(1000));
    let lease = state.store.lease_grant(ttl).await?;
    let key = keys::token(&auth::token_hash(token.expose()));
    state.store.txn(Txn::new().put_leased(key, records::encode(&record), lease)).await?;
    let body = answer(&user, &project, method, now, expires_ms, by_domain);
    let mut response = load::json(StatusCode::CREATED, &body)?;
    if let Ok(mut value) = HeaderValue::from_str(token.expose()) {
        value.set_sensitive(true);
        response.headers_mut().insert("x-subject-token", value);
    }
    Ok(response)
}

/// What a token says; only about tokens of the caller's own project.
pub(in crate::http) async fn show(
    State(state): State<ApiState>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let missing =
        || ApiError::refused(ErrorCode::NotFound, "X-Subject-Token is not a token of this project");
    let subject =
        headers.get("x-subject-token").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    let record = auth::token_record(&state, subject).await.map_err(|error| match error {
        ApiError::Refused { .. } => missing(),
        other => other,
    })?;
    if record.project != call.project() {
        return Err(missing());
    }
    let user = find_user(&state, &record.user).await?.ok_or_else(missing)?;
    let ttl = i64::try_from(state.config.token_ttl.as_millis()).unwrap_or(0);
    let issued = record.expires_ms - ttl;
    let body = answer(&user, &call.principal.project, "password", issued, record.expires_ms, false);
    load::json(StatusCode::OK, &body)
}

async fn by_password(
    state: &ApiState,
    name: &str,
    domain: Option<&str>,
    password: &Secret,
) -> Result<(UserRecord, ProjectRecord), ApiError> {
    let user = find_user(state, name).await?;
    let hash = user.as_ref().map_or_else(|| NOBODY.to_owned(), |user| user.password_hash.clone());
    let password = password.clone();
    let _turn = CHECKS
        .acquire()
        .await
        .map_err(|error| ApiError::internal("the password checks ended", error))?;
    let check = tokio::task::spawn_blocking(move || {
        PasswordHash::new(&hash).is_ok_and(|hash| {
            Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok()
        })
    });
    let fits =
        check.await.map_err(|error| ApiError::internal("checking a password broke off", error))?;
    let user = user.filter(|_| fits).ok_or_else(denied)?;
    let project = find_project(state, &user.project).await?;
    if domain.is_some_and(|domain| domain != project.domain_name) {
        return Err(denied());
    }
    Ok((user, project))
}

/// Whether the token is for the domain; refuses every scope that is not the user's own.
fn check_scope(scope: Option<&Scope>, project: &ProjectRecord) -> Result<bool, ApiError> {
    let is = |wanted: &NameOrId, id: &str, name: &str| match wanted {
        NameOrId::Id(wanted) => wanted == id,
        NameOrId::Name(wanted) => wanted == name,
    };
    match scope {
        None => Ok(false),
        Some(Scope::Project(wanted)) if is(wanted, &project.id, &project.name) => Ok(false),
        Some(Scope::Domain(wanted)) if is(wanted, &project.domain_id, &project.domain_name) => {
            Ok(true)
        }
        Some(_) => Err(denied()),
    }
}

fn denied() -> ApiError {
    let text = "The user name, the password, the domain or the scope is wrong";
    ApiError::refused(ErrorCode::AuthorizationFailed, text)
}

async fn find_user(state: &ApiState, name: &str) -> Result<Option<UserRecord>, ApiError> {
    if !load::is_id(name) {
        return Ok(None);
    }
    Ok(load::find::<UserRecord>(&*state.store, keys::user(name)).await?.map(|user| user.record))
}

async fn find_project(state: &ApiState, id: &str) -> Result<ProjectRecord, ApiError> {
    let found = load::find::<ProjectRecord>(&*state.store, keys::project(id)).await?;
    found.map(|project| project.record).ok_or_else(|| SignError::Mismatch.into())
}

fn answer(
    user: &UserRecord,
    project: &ProjectRecord,
    method: &str,
    issued_ms: i64,
    expires_ms: i64,
    by_domain: bool,
) -> TokenAnswer {
    let domain = Named { id: project.domain_id.clone(), name: project.domain_name.clone() };
    let of_project =
        ProjectRef { id: project.id.clone(), name: project.name.clone(), domain: domain.clone() };
    TokenAnswer {
        token: TokenBody {
            expires_at: iam_time(expires_ms),
            issued_at: iam_time(issued_ms),
            methods: vec![method.to_owned()],
            catalog: Vec::new(),
            project: (!by_domain).then_some(of_project),
            domain: by_domain.then(|| domain.clone()),
            roles: vec![Named { id: "0".to_owned(), name: "te_admin".to_owned() }],
            user: UserRef {
                id: user.id.clone(),
                name: user.name.clone(),
                password_expires_at: String::new(),
                domain,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_costs_a_real_check() {
        let hash = PasswordHash::new(NOBODY).expect("a hash in PHC form");
        assert!(Argon2::default().verify_password(b"", &hash).is_err());
        assert_eq!(hash.params.get_decimal("m"), Some(19_456));
    }
}
