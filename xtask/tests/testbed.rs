//! The test bed itself, for real: needs root, and takes the addresses 127.9.100.1 and .2.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use xtask::run::wait_for;
use xtask::testbed::{self, Options, Testbed};

/// Takes the bed down however the test ends.
struct Guard(Testbed);

impl Drop for Guard {
    fn drop(&mut self) {
        let done = testbed::down(&self.0.state_dir);
        assert!(done.is_ok() || std::thread::panicking(), "{done:?}");
    }
}

const APP: &[u8] = br#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
  "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "none"}]}}}}"#;

#[test]
fn nodes_are_ready_through_their_hosts_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { host_net: "127.9.100".to_owned(), ..Options::new(dir.path(), 2) };
    let mut bed = Guard(testbed::up(&options).unwrap());
    let state = bed.0.state_dir.clone();

    pods_run(&bed.0);
    identities_agree(&bed.0);
    readiness_follows_the_host(&bed.0);
    a_wipe_makes_a_new_host(&mut bed.0);

    let every: Vec<_> = bed.0.processes.iter().chain(bed.0.hosts.iter().map(|h| &h.init)).collect();
    let every: Vec<_> = every.into_iter().cloned().collect();
    testbed::down(&state).unwrap();
    let left: Vec<_> = every.iter().filter(|process| process.alive()).collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(state.to_str().unwrap()), "{mounts}");
    assert!(!state.join("secrets").exists(), "tokens outlive the bed");
}

fn pods_run(bed: &Testbed) {
    bed.kubectl_as("admin", &["create", "-f", "-"], APP).unwrap();
    bed.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]).unwrap();
    bed.kubectl(&["delete", "pods", "-l", "app=web", "--timeout=30s"]).unwrap();
}

fn identities_agree(bed: &Testbed) {
    for host in &bed.hosts {
        let path = format!("/api/v1/nodes/{}", host.node);
        let node: serde_json::Value =
            serde_json::from_str(&bed.kubectl(&["get", "--raw", &path]).unwrap()).unwrap();
        let on_host = host.ssh(&bed.ssh, "cat /etc/machine-id; hostname").unwrap();
        assert_eq!(on_host, format!("{}\n{}\n", host.machine_id, host.node));
        assert_eq!(node["status"]["nodeInfo"]["machineID"], *host.machine_id);
        assert_eq!(node["status"]["nodeInfo"]["systemUUID"], *host.machine_id);
        assert_eq!(node["status"]["addresses"][0]["address"], *host.address);
    }
    assert_ne!(bed.hosts[0].machine_id, bed.hosts[1].machine_id);
}

fn readiness_follows_the_host(bed: &Testbed) {
    let host = bed.host(1).unwrap();
    host.ssh(&bed.ssh, &host.teardown_script).unwrap();
    bed.wait_node(&host.node, "Unknown", Duration::from_secs(15)).unwrap();
    let nodes = bed.ready_nodes().unwrap();
    assert_eq!(nodes["node-2"], "True", "the other host is untouched");
    host.ssh(&bed.ssh, &host.install_script).unwrap();
    bed.wait_node(&host.node, "True", Duration::from_secs(10)).unwrap();
}

fn a_wipe_makes_a_new_host(bed: &mut Testbed) {
    let before = bed.host(2).unwrap().host_key.clone();
    bed.host(2).unwrap().run("touch /root/mark").unwrap();
    bed.wipe_host(2).unwrap();
    let host = bed.host(2).unwrap();
    assert_ne!(host.host_key, before);
    assert_eq!(host.ssh(&bed.ssh, "ls /root").unwrap(), "");
    wait_for("the wiped host to be down", Duration::from_secs(5), || {
        Ok(host.run("test ! -e /run/leasekeeper.pid").ok())
    })
    .unwrap();
}
