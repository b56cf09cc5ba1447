//! Every route of the table: nobody gets in without a proven identity, and nobody sees another project.

use crate::support::*;
use evenkeel_server::http::{Access, ROUTES};
use std::sync::atomic::Ordering;

/// The path of a route with these ids.
fn path(template: &str, project: &str, cluster: &str, pool: &str, node: &str, job: &str) -> String {
    template
        .replace("{project}", project)
        .replace("{cluster}", cluster)
        .replace("{pool}", pool)
        .replace("{node}", node)
        .replace("{job}", job)
}

fn own(template: &str) -> String {
    path(template, PROJECT, CLUSTER, POOL, NODE_A, NODE_A)
}

fn body(method: &str) -> &'static str {
    if method == "GET" { "" } else { "{}" }
}

#[tokio::test]
async fn no_route_lets_anybody_through() {
    let world = World::new().await;
    let before = world.dump().await;
    let mut swept = 0;
    for route in ROUTES.iter().filter(|route| route.access == Access::Principal) {
        let good = world.sign(&call(route.method, &own(route.path), body(route.method)));
        let mut bad = good.clone().without("authorization");
        let authorization =
            good.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.clone();
        let flipped = authorization
            .replace("Signature=", "Signature=00")
            .chars()
            .take(authorization.len())
            .collect::<String>();
        bad = bad.with("authorization", &flipped);
        let other_key = world.sign(&Call {
            sk: "another",
            ..call(route.method, &own(route.path), body(route.method))
        });
        let unknown = world.sign(&Call {
            ak: "AKNOBODY000000000000",
            ..call(route.method, &own(route.path), body(route.method))
        });
        let rows = [
            ("unsigned", good.clone().without("authorization"), "APIGW.0301"),
            ("bad signature", bad, "APIGW.0301"),
            ("wrong key", other_key, "APIGW.0301"),
            ("unknown key", unknown, "APIGW.0301"),
            (
                "bad token",
                good.clone().without("authorization").with("x-auth-token", "nonsense"),
                "APIGW.0301",
            ),
            ("both", good.clone().with("x-auth-token", "nonsense"), "APIGW.0301"),
            ("no date", good.clone().without("x-sdk-date"), "APIGW.0301"),
            ("changed body", Signed { body: "{\"a\":1}".into(), ..good.clone() }, "APIGW.0301"),
            (
                "changed query",
                Signed { target: format!("{}?a=1", good.target), ..good.clone() },
                "APIGW.0301",
            ),
        ];
        let mut texts = std::collections::BTreeMap::new();
        for (what, request, code) in rows {
            let answer = world.send(&request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (401, code),
                "{} {what}: {}",
                route.path,
                answer.text
            );
            texts.insert(what, answer.message().to_owned());
        }
        assert_eq!(texts["unknown key"], texts["wrong key"], "{}", route.path);
        world.clock.fetch_add(901_000, Ordering::SeqCst);
        let stale = world.send(&good).await;
        assert_eq!((stale.status.as_u16(), stale.code()), (401, "APIGW.0303"), "{}", route.path);
        swept += 1;
    }
    assert_eq!(swept, ROUTES.len() - 5, "three routes are public, two are for agents");
    assert_eq!(world.dump().await, before, "a refused call stores nothing");
}

#[tokio::test]
async fn another_project_is_a_missing_one() {
    let world = World::new().await;
    let absent = "00000000000000000000000000000000";
    let mut swept = 0;
    for route in ROUTES.iter().filter(|route| route.path.contains("{project}")) {
        let foreign = path(route.path, OTHER_PROJECT, OTHER_CLUSTER, POOL, NODE_FOREIGN, NODE_A);
        let missing = path(route.path, absent, OTHER_CLUSTER, POOL, NODE_FOREIGN, NODE_A);
        let a = world.call(route.method, &foreign, body(route.method)).await;
        let b = world.call(route.method, &missing, body(route.method)).await;
        assert_eq!(a.status.as_u16(), 404, "{foreign}: {}", a.text);
        assert_eq!(a.stable(&[OTHER_PROJECT]), b.stable(&[absent]), "{foreign}");
        swept += 1;
    }
    assert!(swept >= 15, "{swept}");
}

#[tokio::test]
async fn ids_of_another_project_are_missing_ids() {
    let world = World::new().await;
    let absent = "12345678-0000-4000-8000-000000000000";
    for route in ROUTES.iter().filter(|route| route.path.contains("{cluster}")) {
        let foreign = world
            .call(
                route.method,
                &path(route.path, PROJECT, OTHER_CLUSTER, POOL, NODE_FOREIGN, absent),
                body(route.method),
            )
            .await;
        let missing = world
            .call(
                route.method,
                &path(route.path, PROJECT, absent, POOL, NODE_FOREIGN, absent),
                body(route.method),
            )
            .await;
        assert_eq!(foreign.status.as_u16(), 404, "{} {}", route.path, foreign.text);
        assert_eq!(foreign.stable(&[OTHER_CLUSTER]), missing.stable(&[absent]), "{}", route.path);
    }
    let foreign = world.get(&format!("/clusters/{CLUSTER}/nodes/{NODE_FOREIGN}")).await;
    let missing = world.get(&format!("/clusters/{CLUSTER}/nodes/{absent}")).await;
    assert_eq!(foreign.stable(&[NODE_FOREIGN]), missing.stable(&[absent]));
}

#[tokio::test]
async fn a_signed_project_header_must_name_the_own_project() {
    let world = World::new().await;
    let target = format!("{}/nodepools", base());
    let header = |value: &str| vec![("x-project-id", value.to_owned())];
    let own = world
        .send(&world.sign(&Call { headers: header(PROJECT), ..call("GET", &target, "") }))
        .await;
    assert_eq!(own.status.as_u16(), 200);
    let other = world
        .send(&world.sign(&Call { headers: header(OTHER_PROJECT), ..call("GET", &target, "") }))
        .await;
    assert_eq!((other.status.as_u16(), other.code()), (403, "CCE.01403001"));
    let unsigned = world.sign(&call("GET", &target, "")).with("x-project-id", OTHER_PROJECT);
    assert_eq!(world.send(&unsigned).await.status.as_u16(), 200, "an unsigned header says nothing");
}

#[tokio::test]
async fn what_is_not_served_and_what_is_public() {
    let world = World::new().await;
    let rows = [
        ("GET", "/nothing", "", 404, "APIGW.0101"),
        ("DELETE", "/v3/projects", "", 404, "APIGW.0101"),
        ("GET", "/v3/projects?name=cn-north-4&NAME=x", "", 401, "APIGW.0301"),
        ("GET", "/v3//projects", "", 401, "APIGW.0301"),
    ];
    for (method, target, body, status, code) in rows {
        let answer = world.call(method, target, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (status, code),
            "{target}: {}",
            answer.text
        );
    }
    for target in ["/nothing", "/healthz/", "/HEALTHZ", "/healthz%2f"] {
        let unsigned = Signed {
            method: "GET".into(),
            target: target.into(),
            headers: vec![],
            body: String::new(),
        };
        assert_eq!(world.send(&unsigned).await.status.as_u16(), 401, "{target}");
    }
    let health = Signed {
        method: "GET".into(),
        target: "/healthz".into(),
        headers: vec![],
        body: String::new(),
    };
    assert_eq!(world.send(&health).await.json, serde_json::json!({ "status": "ok" }));
}

#[tokio::test]
async fn other_algorithms_are_refused_with_the_documented_code() {
    let world = World::new().await;
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../api/tests/fixtures/signing-vectors.json"))
            .unwrap();
    let text = file.to_string();
    assert!(text.contains("V11-HMAC-SHA256") && text.contains("UNSIGNED-PAYLOAD"));
    let plain = world.sign(&call("GET", "/v3/projects", ""));
    let derived = "V11-HMAC-SHA256 Credential=AKEXAMPLE0000000000A/20261123/cn-north-4/cce, SignedHeaders=host, Signature=00";
    let answer =
        world.send(&plain.clone().without("authorization").with("authorization", derived)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "APIGW.0301"));
    let unsigned = Call {
        headers: vec![("x-sdk-content-sha256", "UNSIGNED-PAYLOAD".into())],
        ..call("GET", "/v3/projects", "")
    };
    let answer = world.send(&world.sign(&unsigned)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "APIGW.0301"), "{}", answer.text);
}

#[tokio::test]
async fn tokens_are_made_used_and_expire() {
    let world = World::new().await;
    let ask = |password: &str, scope: serde_json::Value| {
        let user = serde_json::json!({ "name": "admin", "password": password, "domain": { "name": "main-domain" } });
        let body = serde_json::json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": user } }, "scope": scope } });
        Signed {
            method: "POST".into(),
            target: "/v3/auth/tokens".into(),
            headers: vec![],
            body: body.to_string(),
        }
    };
    let scope = serde_json::json!({ "project": { "name": "main" } });
    for (password, scope) in [
        ("wrong", scope.clone()),
        (USER_PASSWORD, serde_json::json!({ "project": { "id": OTHER_PROJECT } })),
    ] {
        let refused = world.send(&ask(password, scope)).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (401, "CCE.01401001"));
    }
    assert_eq!(world.count("tokens/").await, 0);
    let made = world.send(&ask(USER_PASSWORD, scope)).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    assert_eq!(made.json["token"]["project"]["id"], PROJECT);
    let token = made.headers["x-subject-token"].to_str().unwrap().to_owned();
    let with = |target: String| Signed {
        method: "GET".into(),
        target,
        headers: vec![("x-auth-token".into(), token.clone())],
        body: String::new(),
    };
    assert_eq!(world.send(&with(format!("{}/nodepools", base()))).await.status.as_u16(), 200);
    let shown = world.send(&with("/v3/auth/tokens".into()).with("x-subject-token", &token)).await;
    assert_eq!(shown.json["token"]["user"]["name"], "admin");
    let foreign = with(format!("/api/v3/projects/{OTHER_PROJECT}/clusters"));
    assert_eq!(world.send(&foreign).await.status.as_u16(), 404);
    let domains = world.send(&with("/v3/auth/domains".into())).await;
    assert_eq!(domains.json["domains"][0]["name"], "main-domain");
    assert_eq!(
        world.send(&with("/v3/users?name=admin".into())).await.json["users"][0]["name"],
        "admin"
    );
    assert_eq!(
        world.send(&with("/v3/projects?name=elsewhere".into())).await.json["projects"],
        serde_json::json!([])
    );
    world.clock.fetch_add(24 * 3_600_000, Ordering::SeqCst);
    let expired = world.send(&with(format!("{}/nodepools", base()))).await;
    assert_eq!((expired.status.as_u16(), expired.code()), (401, "APIGW.0301"));
    assert!(expired.message().contains("token expires"));
}
