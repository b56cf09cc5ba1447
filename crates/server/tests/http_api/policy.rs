//! When nodes of a pool may be taken: set, shown, kept, and refused where a window can never open.

use crate::support::*;
use evenkeel_engine::ids::{ClusterId, PoolId};
use evenkeel_server::records::{PaceRecord, keys};
use serde_json::{Value, json};

fn path(pool: &str) -> String {
    format!("/evenkeel/v1/projects/{PROJECT}/clusters/{CLUSTER}/nodepools/{pool}/policy")
}

async fn set(world: &World, pool: &str, body: &Value) -> Answer {
    world.call("PUT", &path(pool), &body.to_string()).await
}

#[tokio::test]
async fn windows_and_soak_are_set_and_a_part_left_out_stays() {
    let world = World::new().await;
    let night =
        json!({ "days": ["Mon-Fri"], "from": "9pm", "to": "05:00", "timeZone": "Europe/Berlin" });
    let saturday = json!({ "cron": "0 22 * * Sat", "durationSeconds": 14_400 });
    for pool in [POOL, "DefaultPool"] {
        let first = world.call("GET", &path(pool), "").await;
        assert_eq!((&first.json["windows"], &first.json["open"]), (&json!([]), &json!(true)));
        let answer =
            set(&world, pool, &json!({ "windows": [night, saturday], "soakSeconds": 600 })).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        let answer = set(&world, pool, &json!({ "soakSeconds": 60 })).await;
        assert_eq!(answer.json["soakSeconds"], 60);
        let answer = set(&world, pool, &json!({ "strictCapacity": true })).await;
        assert_eq!(
            (&answer.json["strictCapacity"], &answer.json["soakSeconds"]),
            (&json!(true), &json!(60))
        );
        assert_eq!(answer.json["windows"][0]["days"], json!(["Mon", "Tue", "Wed", "Thu", "Fri"]));
        assert_eq!(answer.json["windows"][0]["from"], "21:00:00");
        assert_eq!(answer.json["windows"][1]["timeZone"], "UTC");
        assert_eq!(answer.json["updatedBy"], format!("admin/{AK}"));
        // 2026-11-23 17:25 UTC is Monday, half past six in the evening in Berlin.
        assert_eq!(answer.json["open"], false);
        let because = answer.json["closedBecause"].as_str().unwrap();
        assert!(because.starts_with("the next one opens 2026-11-23 21:00 CET"), "{because}");
        let shown = world.call("GET", &path(pool), "").await;
        assert_eq!(shown.json["windows"], answer.json["windows"]);
        let key = keys::pace(PROJECT, &ClusterId::new(CLUSTER), &PoolId::new(pool));
        let record: PaceRecord = world.record(&key).await.unwrap();
        assert_eq!((record.windows.len(), record.soak_s, record.strict_capacity), (2, 60, true));
        let none = set(&world, pool, &json!({ "windows": [] })).await;
        assert_eq!((&none.json["windows"], &none.json["open"]), (&json!([]), &json!(true)));
    }
}

#[tokio::test]
async fn what_can_never_open_is_refused_and_names_the_field() {
    let world = World::new().await;
    let window = |window: Value| json!({ "windows": [window] });
    let rows = [
        (json!({}), "none of windows, soakSeconds and strictCapacity"),
        (json!({ "soakSeconds": -1 }), "soakSeconds"),
        (json!({ "soakSeconds": 700_000 }), "from 0 to 604800"),
        (json!({ "strictCapacity": "yes" }), "strictCapacity"),
        (json!({ "windows": {} }), "windows is not a list"),
        (window(json!({})), "windows[0]"),
        (window(json!({ "from": "21:00" })), "neither cron nor from and to"),
        (window(json!({ "from": "21:00", "to": "21:00" })), "windows[0].to equals"),
        (window(json!({ "from": "21:00", "to": "25:00" })), "windows[0].to"),
        (window(json!({ "days": ["Noday"], "from": "1:00", "to": "2:00" })), "windows[0].days"),
        (
            window(json!({ "from": "1:00", "to": "2:00", "timeZone": "Moon" })),
            "windows[0].timeZone",
        ),
        (window(json!({ "cron": "0 0 30 2 *", "durationSeconds": 600 })), "can never open"),
        (window(json!({ "cron": "nonsense" })), "windows[0].cron"),
        (
            window(json!({ "cron": "0 0 * * *", "durationSeconds": 1 })),
            "windows[0].durationSeconds",
        ),
    ];
    for (body, words) in rows {
        let before = world.dump().await;
        let answer = set(&world, POOL, &body).await;
        let got = (answer.status.as_u16(), answer.code());
        assert_eq!(got, (400, "CCE.01400001"), "{body}: {}", answer.text);
        assert!(answer.message().contains(words), "{body}: {}", answer.message());
        assert_eq!(world.dump().await, before, "{body}");
    }
    let answer = set(&world, "nope", &json!({ "soakSeconds": 1 })).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (404, "CCE.01404001"));
}
