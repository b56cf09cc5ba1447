//! What a node needs to join again: a short-lived bootstrap token, and an API server that no longer believes the
//! stopped kubelet to be Ready. Needs the rights of `deploy/rbac-kubeadm.yaml`.

use super::Api;
use super::wire::{Call, Wire, built, segment};
use crate::secrets::random_text;
use crate::sync::ports::{Fault, Joiner, Ticket};
use ::kube::api::{PostParams, Request};
use async_trait::async_trait;
use evenkeel_engine::ids::NodeName;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::json;
use std::time::Duration;

/// Where bootstrap tokens live (Kubernetes' own convention).
const TOKEN_PATH: &str = "/api/v1/namespaces/kube-system/secrets";
/// The group that kubeadm's own RBAC rules let join.
const TOKEN_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
/// `[a-z0-9]{6}` and `[a-z0-9]{16}`: the format of a bootstrap token.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;

#[async_trait]
impl Joiner for Api {
    async fn version(&self) -> Result<String, Fault> {
        super::register::version(&self.wire).await
    }

    async fn ticket(&self, node: &NodeName, life: Duration) -> Result<Ticket, Fault> {
        let (token_id, secret) = (random(ID_LEN)?, random(SECRET_LEN)?);
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::from_mins(60));
        let expires = Timestamp::now() + life;
        let name = format!("bootstrap-token-{token_id}");
        let body = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "description": format!("evenkeel: node {node} joins again"),
                "token-id": token_id,
                "token-secret": secret,
                "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "usage-bootstrap-authentication": "true",
                "auth-extra-groups": TOKEN_GROUP,
            },
        });
        let call = Call { verb: "create", resource: "secrets", name: "bootstrap-token" };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let request = Request::new(TOKEN_PATH).create(&PostParams::default(), bytes);
        send(&self.wire, &call, built(&call, request)?).await?;
        Ok(Ticket {
            server: self.wire.server().to_owned(),
            ca_data: self.ca_data.clone(),
            token: SecretString::from(format!("{token_id}.{secret}")),
            token_id,
        })
    }

    async fn withdraw(&self, token_id: &str) -> Result<(), Fault> {
        let name = format!("bootstrap-token-{token_id}");
        let call = Call { verb: "delete", resource: "secrets", name: &name };
        segment(&call, &name)?;
        let request = http::Request::delete(format!("{TOKEN_PATH}/{name}"));
        match send(&self.wire, &call, built(&call, request.body(Vec::new()))?).await {
            Ok(()) | Err(Fault::Gone { .. }) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    async fn kubelet_stopped(&self, node: &NodeName, conditions: &[String]) -> Result<(), Fault> {
        let call = Call { verb: "patch", resource: "nodes/status", name: node.as_str() };
        let name = segment(&call, node.as_str())?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind: &str, status: &str| {
            json!({
                "type": kind,
                "status": status,
                "reason": "EvenkeelReset",
                "message": "Kubernetes was taken off this node; it joins again",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            })
        };
        // The Node object stays, and with it what an agent said before the reset.
        let others = conditions.iter().filter(|kind| *kind != "Ready");
        let all: Vec<_> = std::iter::once(condition("Ready", "False"))
            .chain(others.map(|kind| condition(kind, "Unknown")))
            .collect();
        let body = json!({"status": {"conditions": all}});
        let request = http::Request::patch(format!("/api/v1/nodes/{name}/status"))
            .header(http::header::CONTENT_TYPE, "application/strategic-merge-patch+json")
            .body(serde_json::to_vec(&body).unwrap_or_default());
        match send(&self.wire, &call, built(&call, request)?).await {
            Ok(()) | Err(Fault::Gone { .. }) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

async fn send(wire: &Wire, call: &Call<'_>, request: http::Request<Vec<u8>>) -> Result<(), Fault> {
    let answer = wire.send(call, request).await?;
    if answer.status == http::StatusCode::FORBIDDEN {
        return Err(Fault::permanent(format!(
            "not allowed to {} {} (403); the recipe kubeadm needs deploy/rbac-kubeadm.yaml as well",
            call.verb, call.resource
        )));
    }
    answer.done(call)
}

fn random(length: usize) -> Result<String, Fault> {
    random_text(ALPHABET, length).map_err(|source| Fault::Transient {
        what: "the system gave no random bytes for a bootstrap token".to_owned(),
        source: Some(Box::new(source)),
    })
}
