//! What is asked of a cluster before it is registered: who it is, and whether it grants what we need.
//! [`RIGHTS`] is the shipped ClusterRole (`deploy/rbac.yaml`); a test holds the two equal.

use super::wire::{Call, Wire, built};
use crate::sync::ports::Fault;
use ::kube::api::{PostParams, Request};
use serde::Deserialize;
use serde_json::json;

/// A rule of the ClusterRole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource after a slash.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Where it is asked for; the ClusterRole itself grants it everywhere.
    pub namespace: Option<&'static str>,
}

/// All that Evenkeel does in a cluster.
pub const RIGHTS: &[Right] = &[
    Right {
        group: "",
        resource: "nodes",
        verbs: &["get", "list", "watch", "patch"],
        namespace: None,
    },
    Right { group: "", resource: "pods", verbs: &["list", "watch", "delete"], namespace: None },
    Right { group: "", resource: "pods/eviction", verbs: &["create"], namespace: None },
    Right {
        group: "policy",
        resource: "poddisruptionbudgets",
        verbs: &["list", "watch"],
        namespace: None,
    },
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["get"],
        namespace: Some("kube-node-lease"),
    },
    Right { group: "", resource: "persistentvolumeclaims", verbs: &["list"], namespace: None },
    Right { group: "", resource: "persistentvolumes", verbs: &["list"], namespace: None },
    Right {
        group: "",
        resource: "events",
        verbs: &["create", "patch"],
        namespace: Some("default"),
    },
];

/// A cluster that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// `gitVersion`, as `v1.36.3`.
    pub version: String,
    /// The API server's address.
    pub server: String,
    /// Rights of [`RIGHTS`] that the credential does not have, as `patch nodes`. Empty: all is well.
    pub missing_rights: Vec<String>,
}

/// `gitVersion` of the API server.
pub(super) async fn version(wire: &Wire) -> Result<String, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let call = Call { verb: "get", resource: "/version", name: "" };
    let request = built(&call, http::Request::get("/version").body(Vec::new()))?;
    let version: Version = wire.send(&call, request).await?.decode(&call)?;
    Ok(version.git_version)
}

/// Reads the version and asks for each right.
pub(super) async fn check(wire: &Wire) -> Result<Registered, Fault> {
    let version = version(wire).await?;
    let mut missing_rights = Vec::new();
    for right in RIGHTS {
        for verb in right.verbs {
            if !allowed(wire, right, verb).await? {
                missing_rights.push(format!("{verb} {}", right.resource));
            }
        }
    }
    Ok(Registered { version, server: wire.server().to_owned(), missing_rights })
}

/// One SelfSubjectAccessReview: every authenticated user may ask about itself.
async fn allowed(wire: &Wire, right: &Right, verb: &str) -> Result<bool, Fault> {
    #[derive(Deserialize)]
    struct Review {
        status: Option<Verdict>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Verdict {
        allowed: bool,
        denied: bool,
    }
    let call = Call { verb: "create", resource: "selfsubjectaccessreviews", name: "" };
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "verb": verb,
            "namespace": right.namespace.unwrap_or_default(),
        }},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let request = Request::new(path).create(&PostParams::default(), body.to_string().into_bytes());
    let review: Review = wire.send(&call, built(&call, request)?).await?.decode(&call)?;
    Ok(review.status.is_some_and(|v| v.allowed && !v.denied))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use std::collections::BTreeSet;

    #[derive(Deserialize)]
    struct Document {
        kind: String,
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Rule {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
    }

    #[test]
    fn the_shipped_cluster_role_grants_exactly_the_rights_that_are_checked() {
        let yaml = include_str!("../../../../deploy/rbac.yaml");
        let documents: Vec<Document> = serde_saphyr::from_multiple(yaml).unwrap();
        assert!(
            !documents.iter().any(|d| d.kind == "Role"),
            "rights stand in the ClusterRole alone"
        );
        let mut granted = BTreeSet::new();
        for rule in documents.iter().filter(|d| d.kind == "ClusterRole").flat_map(|d| &d.rules) {
            for group in &rule.api_groups {
                for resource in &rule.resources {
                    for verb in &rule.verbs {
                        granted.insert((group.as_str(), resource.as_str(), verb.as_str()));
                    }
                }
            }
        }
        let checked: BTreeSet<_> =
            RIGHTS.iter().flat_map(|r| r.verbs.iter().map(|v| (r.group, r.resource, *v))).collect();
        assert_eq!(granted, checked);
    }
}
