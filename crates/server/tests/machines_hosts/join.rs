//! The recipe `kubeadm` and its tokens. The host only answers: what a join does is shown on real nodes elsewhere.

use crate::support::{Cut, HostShared, Lab, transient};
use async_trait::async_trait;
use evenkeel_engine::ids::NodeName;
use evenkeel_server::records::{Kubeadm, Recipe};
use evenkeel_server::sync::ports::{Fault, HostState, Joiner, Machines, Stage, Ticket};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the host says of the join's order, and where the connection is cut then.
type Joining = (Value, Option<Cut>);

/// An API server that remembers which tokens there are and what it was told.
struct Played {
    tokens: Mutex<Vec<String>>,
    made: Mutex<u32>,
    stopped: Mutex<u32>,
    host: Arc<HostShared>,
    joining: Mutex<Joining>,
}

impl Played {
    fn tokens(&self) -> Vec<String> {
        self.tokens.lock().unwrap().clone()
    }

    fn stopped(&self) -> u32 {
        *self.stopped.lock().unwrap()
    }
}

#[async_trait]
impl Joiner for Played {
    /// Asked for between the teardown and the join: from here on the host speaks of the join.
    async fn version(&self) -> Result<String, Fault> {
        let (state, cut) = self.joining.lock().unwrap().clone();
        says(&self.host, &state);
        *self.host.cut.lock().unwrap() = cut;
        Ok("v1.36.3".into())
    }

    async fn ticket(&self, _: &NodeName, _: Duration) -> Result<Ticket, Fault> {
        let mut made = self.made.lock().unwrap();
        *made += 1;
        let token_id = format!("token{made}");
        self.tokens.lock().unwrap().push(token_id.clone());
        let token = SecretString::from(format!("{token_id}.0123456789abcdef"));
        Ok(Ticket { server: "https://127.0.0.1:1".into(), ca_data: None, token, token_id })
    }

    async fn withdraw(&self, token_id: &str) -> Result<(), Fault> {
        self.tokens.lock().unwrap().retain(|token| token != token_id);
        Ok(())
    }

    async fn kubelet_stopped(&self, _: &NodeName, _: &[String]) -> Result<(), Fault> {
        *self.stopped.lock().unwrap() += 1;
        Ok(())
    }
}

/// What the host answers about every order from now on.
fn says(host: &HostShared, state: &Value) {
    let progress = json!({
        "id": "job-1.node-1.1.reset", "state": state, "steps": [], "output_len": 0, "boot_id": "b",
    });
    let mut canned = host.canned.lock().unwrap();
    canned.extend(["accept", "status"].map(|word| (word, progress.to_string())));
}

fn kind(kind: &str) -> Value {
    json!({"kind": kind})
}

async fn lab() -> (Lab, Arc<Played>) {
    let lab = Lab::new().await;
    let played = Arc::new(Played {
        tokens: Mutex::default(),
        made: Mutex::default(),
        stopped: Mutex::default(),
        host: Arc::clone(&lab.host.shared),
        joining: Mutex::new((Value::Null, None)),
    });
    let joiner = Arc::clone(&played);
    lab.change(|brief| {
        brief.recipe = Recipe::Kubeadm(Kubeadm {
            limit_s: 20,
            endpoint: None,
            cri_socket: None,
            ignore_preflight: Vec::new(),
            data_dirs: Vec::new(),
            reimage: None,
        });
        brief.joiner = Some(joiner);
    });
    (lab, played)
}

/// One call: the teardown has ended well, and the join stands so.
async fn run(
    lab: &Lab,
    played: &Played,
    attempt: u32,
    joining: Joining,
) -> Result<HostState, Fault> {
    says(&lab.host.shared, &kind("succeeded"));
    *played.joining.lock().unwrap() = joining;
    lab.run(&lab.order(attempt, Stage::Reset)).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_during_a_join_leaves_the_host_its_token() {
    for restart in [false, true] {
        let (mut lab, played) = lab().await;
        let cut = |word| (kind("running"), Some(Cut::Before(word)));
        transient(run(&lab, &played, 1, cut("accept")).await);
        assert_eq!(played.tokens(), ["token1"], "the host may have it");
        if restart {
            lab.restart();
        }
        transient(run(&lab, &played, 1, cut("status")).await);
        transient(run(&lab, &played, 1, cut("status")).await);
        let tokens: &[&str] = if restart { &["token1", "token2"] } else { &["token1"] };
        assert_eq!(played.tokens(), tokens, "none is withdrawn, and none is made at each call");
        let end = run(&lab, &played, 1, (kind("succeeded"), None)).await;
        assert!(matches!(end, Ok(HostState::Succeeded { .. })), "{end:?}");
        assert_eq!(played.tokens(), Vec::<String>::new(), "all go with the end of the order");
        // A controller that died before it had stored the end asks again.
        lab.restart();
        run(&lab, &played, 1, (kind("succeeded"), None)).await.unwrap();
        assert_eq!(played.tokens(), Vec::<String>::new());
        assert_eq!(played.stopped(), 1, "the kubelet that joins is not called stopped");
        lab.fleet.forget(&"job-1".into()).await.unwrap();
        let left = std::fs::read_dir(lab.data.path().join("tickets")).unwrap().count();
        assert_eq!(left, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_attempt_that_was_given_up_go_with_the_next_one() {
    let (lab, played) = lab().await;
    transient(run(&lab, &played, 1, (kind("running"), Some(Cut::Before("status")))).await);
    assert_eq!(played.tokens(), ["token1"]);
    let failed = json!({"kind": "failed", "step": "install", "reason": "exit status 1"});
    transient(run(&lab, &played, 2, (failed.clone(), Some(Cut::After("accept")))).await);
    assert_eq!(played.tokens(), ["token2"]);
    let end = run(&lab, &played, 2, (failed, None)).await;
    assert!(matches!(end, Ok(HostState::Failed { .. })), "{end:?}");
    assert_eq!(played.tokens(), Vec::<String>::new());
    assert_eq!(played.stopped(), 2, "once per attempt");
}
