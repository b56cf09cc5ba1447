//! The test bed with real nodes, for real: needs root, takes the addresses 127.9.101.1 to .3, and
//! about a minute and 1 GB of memory. Prints how long each step took.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "the times are for whoever runs it")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::run::{output, wait_for};
use xtask::testbed::real::RealNode;
use xtask::testbed::{self, Options, Testbed};

/// Nothing here takes a quarter of it on two cores that also compile.
const LIMIT: Duration = Duration::from_mins(3);

/// Takes the bed down however the test ends.
struct Guard(Testbed);

impl Drop for Guard {
    fn drop(&mut self) {
        let done = testbed::down(&self.0.state_dir);
        assert!(done.is_ok() || std::thread::panicking(), "{done:?}");
    }
}

/// Four pods, one of which may be missing.
const APP: &[u8] = br#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
   "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {
     "metadata": {"labels": {"app": "web"}},
     "spec": {
       "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false,
       "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
         "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}],
       "containers": [{"name": "c", "image": "testbed.local/app:1",
         "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
         "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}}}},
  {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
   "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}}]}"#;

#[test]
fn real_nodes_run_pods_leave_and_join_again_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { real_net: "127.9.101".to_owned(), ..Options::real(dir.path(), 3) };
    let mut bed = Guard(testbed::up(&options).unwrap());
    eprintln!("up, in ms: {:?}", bed.0.took_ms);
    let state = bed.0.state_dir.clone();

    identities_agree(&bed.0);
    containers_run(&bed.0);
    a_node_leaves_and_joins_again(&bed.0, 1, KeepNode::Yes);
    a_node_leaves_and_joins_again(&bed.0, 2, KeepNode::No);
    a_node_survives_its_reboot(&bed.0, 3);
    a_reinstalled_node_joins(&mut bed.0, 3);

    pods_were_evicted(&bed.0);
    let netns = bed.0.network.as_ref().unwrap().netns.clone();
    let every: Vec<u32> = bed.0.processes.iter().map(|process| process.pid).collect();
    timed("down", || testbed::down(&state).unwrap());
    let left: Vec<_> = every.iter().filter(|pid| runs(**pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    nothing_is_left(&netns, state.to_str().unwrap());
}

/// Whether the Node object outlives the host's reset.
#[derive(Clone, Copy, PartialEq, Debug)]
enum KeepNode {
    Yes,
    No,
}

fn timed<T>(what: &str, job: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = job();
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

fn get(bed: &Testbed, path: &str) -> Value {
    serde_json::from_str(&bed.kubectl(&["get", "--raw", path]).unwrap()).unwrap()
}

fn ssh(bed: &Testbed, node: &RealNode, command: &str) -> String {
    node.ssh(&bed.ssh, command).unwrap()
}

fn identities_agree(bed: &Testbed) {
    for node in &bed.real_nodes {
        let info = get(bed, &format!("/api/v1/nodes/{}", node.node));
        let on_host = ssh(bed, node, "cat /etc/machine-id; hostname");
        assert_eq!(on_host, format!("{}\n{}\n", node.machine_id, node.node));
        assert_eq!(info["status"]["nodeInfo"]["machineID"], *node.machine_id);
        assert_eq!(info["status"]["nodeInfo"]["systemUUID"], *node.machine_id);
        assert_eq!(info["status"]["addresses"][0]["address"], *node.internal_ip);
        assert_eq!(info["status"]["nodeInfo"]["kubeletVersion"], "v1.36.3");
    }
    let ids: Vec<_> = bed.real_nodes.iter().map(|node| &node.machine_id).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
}

/// Ready pods of the deployment, by node, with their addresses.
fn ready_pods(bed: &Testbed) -> BTreeMap<String, Vec<(String, String)>> {
    let list = get(bed, "/api/v1/namespaces/default/pods");
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for pod in list["items"].as_array().unwrap() {
        let ready = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|each| each["type"] == "Ready" && each["status"] == "True");
        if ready && pod["metadata"]["deletionTimestamp"].is_null() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let of_node = found.entry(text(&pod["spec"]["nodeName"])).or_default();
            of_node.push((text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"])));
        }
    }
    found
}

/// Waits until all four pods are Ready; with `node`, at least one of them there.
fn wait_pods(bed: &Testbed, node: Option<&str>) -> BTreeMap<String, Vec<(String, String)>> {
    wait_for("four Ready pods", LIMIT, || {
        let pods = ready_pods(bed);
        let there = node.is_none_or(|node| pods.contains_key(node));
        let all = pods.values().map(Vec::len).sum::<usize>();
        Ok((all == 4 && there).then_some(pods))
    })
    .unwrap()
}

fn containers_run(bed: &Testbed) {
    let pods = timed("4 pods Ready on 3 nodes", || {
        bed.kubectl_as("admin", &["create", "-f", "-"], APP).unwrap();
        wait_pods(bed, None)
    });
    assert_eq!(pods.len(), 3, "{pods:?}");
    for (node, pods) in &pods {
        let node = bed.real_nodes.iter().find(|n| n.node == *node).unwrap();
        // One more container per pod holds its namespaces.
        let running = ssh(bed, node, "ctr -n k8s.io tasks list -q | wc -l");
        assert_eq!(running.trim(), (pods.len() * 2).to_string());
        let mib = node.memory().unwrap() / 1024 / 1024;
        eprintln!("{}: {mib} MiB with {} pods", node.node, pods.len());
    }
    // From a container on one node to one on another, by way of the kubelet and of the pod network.
    let (from, to) = (&pods["node-1"][0], &pods["node-2"][0]);
    let url = format!("http://{}:8080/hostname", to.1);
    let answer = bed.kubectl(&["exec", &from.0, "--", "wget", "-q", "-O", "-", &url]);
    assert_eq!(answer.unwrap().trim(), to.0);
}

fn a_node_leaves_and_joins_again(bed: &Testbed, number: u8, keep: KeepNode) {
    let node = bed.real_node(number).unwrap();
    let name = node.node.as_str();
    eprintln!("reset cycle of {name}, Node kept: {keep:?}");
    let whole = Instant::now();
    let uid = get(bed, &format!("/api/v1/nodes/{name}"))["metadata"]["uid"].clone();
    timed("  drain", || {
        bed.kubectl(&["drain", name, "--ignore-daemonsets", "--timeout=50s"]).unwrap();
    });
    timed("  teardown", || ssh(bed, node, &node.teardown_script));
    let left =
        ssh(bed, node, "ctr -n k8s.io tasks list -q; ls /var/lib/kubelet; ls /etc/kubernetes");
    assert!(!left.contains("kubelet.conf"), "{left}");
    assert!(node.ssh(&bed.ssh, "systemctl is-active kubelet").is_err());
    if keep == KeepNode::No {
        bed.kubectl(&["delete", "node", name]).unwrap();
    }
    timed("  install", || ssh(bed, node, &node.install_script));
    timed("  Ready", || bed.wait_node(name, "True", LIMIT).unwrap());
    let after = get(bed, &format!("/api/v1/nodes/{name}"));
    assert_eq!(after["metadata"]["uid"] == uid, keep == KeepNode::Yes);
    let cordoned = after["spec"]["unschedulable"] == true;
    assert_eq!(cordoned, keep == KeepNode::Yes, "a cordon outlives a rejoin");
    bed.kubectl(&["uncordon", name]).unwrap();
    timed("  pods back", || {
        bed.kubectl(&["rollout", "restart", "deployment/web"]).unwrap();
        bed.kubectl(&["rollout", "status", "deployment/web", "--timeout=50s"]).unwrap();
        wait_pods(bed, Some(name))
    });
    eprintln!("  in all: {:.1} s", whole.elapsed().as_secs_f64());
}

fn a_node_survives_its_reboot(bed: &Testbed, number: u8) {
    let node = bed.real_node(number).unwrap();
    let path = format!("/api/v1/nodes/{}", node.node);
    let boot = || get(bed, &path)["status"]["nodeInfo"]["bootID"].clone();
    let before = boot();
    timed("reboot until Ready", || {
        // The connection may end before the command does.
        let _ = node.ssh(&bed.ssh, "systemctl reboot");
        wait_for("the Node's new boot", LIMIT, || {
            let ready = bed.ready_nodes()?;
            Ok((boot() != before && ready[&node.node] == "True").then_some(()))
        })
        .unwrap();
    });
    node.wait_ssh().unwrap();
    timed("pods after the reboot", || {
        // The API server says Ready of pods that the reboot ended, until their kubelet looks.
        wait_for("the node's containers", LIMIT, || {
            let pods = wait_pods(bed, Some(&node.node));
            let wanted = pods[&node.node].len() * 2;
            let running = node.ssh(&bed.ssh, "ctr -n k8s.io tasks list | grep -c RUNNING")?;
            Ok((running.trim() == wanted.to_string()).then_some(()))
        })
        .unwrap();
    });
}

fn a_reinstalled_node_joins(bed: &mut Testbed, number: u8) {
    let before = bed.real_node(number).unwrap().host_key.clone();
    bed.kubectl(&["drain", "node-3", "--ignore-daemonsets", "--timeout=50s"]).unwrap();
    timed("fresh disk until SSH", || bed.wipe_real_node(number).unwrap());
    let node = bed.real_node(number).unwrap();
    assert_ne!(node.host_key, before);
    testbed::real::cluster::renew_token(bed).unwrap();
    timed("fresh disk: install", || ssh(bed, node, &node.install_script));
    bed.wait_node(&node.node, "True", LIMIT).unwrap();
    bed.kubectl(&["uncordon", &node.node]).unwrap();
}

/// The drains of the first and the last node moved at least one pod each, through the eviction API.
fn pods_were_evicted(bed: &Testbed) {
    let log = fs::read_to_string(&bed.audit_log).unwrap();
    let mut answers: BTreeMap<u64, usize> = BTreeMap::new();
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let object = &event["objectRef"];
        if object["subresource"] == "eviction" && event["stage"] == "ResponseComplete" {
            assert_eq!(event["user"]["username"], "admin", "{line}");
            *answers.entry(event["responseStatus"]["code"].as_u64().unwrap()).or_default() += 1;
        }
    }
    eprintln!("evictions by answer: {answers:?}");
    assert!(answers.get(&201).is_some_and(|count| *count >= 2));
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn nothing_is_left(netns: &str, state: &str) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(state) && !mounts.contains(netns), "{mounts}");
    let list = |command: &str| {
        let mut shell = Command::new("sh");
        output(shell.args(["-c", command]), Duration::from_secs(10)).unwrap()
    };
    assert!(!list("ip netns list").contains(netns));
    assert!(!list("find /sys/fs/cgroup -maxdepth 2 -type d").contains(netns));
    let commands = list("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true");
    assert!(!commands.contains(state) && !commands.contains(netns), "{commands}");
}
