//! The requests that unmodified SDKs sent, with the status that each is to get.

use crate::support::{START_MS, Signed, World};
use serde_json::Value;
use std::sync::atomic::Ordering;

const RECORDED: &str = include_str!("../../../api/tests/fixtures/recorded-requests.json");

/// (end of the path, status, code), in the order of the file.
const EXPECTED: &[(&str, u16, &str)] = &[
    ("/nodepools/cccccccc-cccc-cccc-cccc-cccccccccccc/operation/upgrade", 200, ""),
    // Its password is base64 of `$6$` alone, which is no hash.
    ("/nodepools/DefaultPool/operation/upgrade", 400, "CCE.01400001"),
    ("/nodepools?advanceStatus=true&showDefaultNodePool=true", 200, ""),
    ("/nodepools/cccccccc-cccc-cccc-cccc-cccccccccccc", 200, ""),
    ("/nodepools", 201, ""),
    ("/operation/scale", 404, "APIGW.0101"),
    ("/jobs/4d1ecb2c-229a-11e8-9c75-0255ac100ceb", 404, "CCE.01404001"),
    ("/nodes?limit=100&marker=x", 200, ""),
    ("/clustercert", 404, "APIGW.0101"),
    ("/clusters/11111111-2222-3333-4444-555555555555", 200, ""),
    ("/v3/projects?name=cn-north-4", 200, ""),
    ("/clusters?detail=true", 200, ""),
    ("/nodepools/cccccccc-cccc-cccc-cccc-cccccccccccc/operation/upgrade", 200, ""),
    ("/nodepools?showDefaultNodePool=true", 200, ""),
    ("/nodepools/nope", 404, "CCE.01404001"),
];

fn requests() -> Vec<Signed> {
    let file: Value = serde_json::from_str(RECORDED).unwrap();
    let pair = |header: &Value| {
        let text = |index: usize| header[index].as_str().unwrap().to_owned();
        (text(0), text(1))
    };
    file["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|request| Signed {
            method: request["method"].as_str().unwrap().into(),
            target: request["target"].as_str().unwrap().into(),
            headers: request["headers"].as_array().unwrap().iter().map(pair).collect(),
            body: request["body"].as_str().unwrap_or("").into(),
        })
        .collect()
}

#[tokio::test]
async fn every_recorded_request_gets_its_status() {
    let requests = requests();
    assert_eq!(requests.len(), EXPECTED.len());
    for (request, (path, status, code)) in requests.iter().zip(EXPECTED) {
        assert!(request.target.ends_with(path), "{} {path}", request.target);
        let world = World::new().await;
        let date = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-sdk-date"));
        // The Node requests were recorded seven minutes after the Python ones: inside the window.
        assert!(date.is_some());
        let answer = world.send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (*status, *code),
            "{path}: {}",
            answer.text
        );
        let again = world.send(request).await;
        assert_eq!(
            (again.status, again.code()),
            (answer.status, answer.code()),
            "{path}: repeated"
        );
        if answer.status.is_success() && request.method != "GET" {
            assert_eq!(
                again.json, answer.json,
                "{path}: a repeated signature gets the first answer"
            );
        }
        world.clock.store(START_MS + 3_600_000, Ordering::SeqCst);
        let late = world.send(request).await;
        assert_eq!((late.status.as_u16(), late.code()), (401, "APIGW.0303"), "{path}");
    }
}
