"""Real nodes: systemd, containerd and kubelet on each. The recipe `kubeadm` takes them out and joins them again."""

import shutil
import time

import pytest

import sdk
from bed import ROOT, Bed, Server, budget, wait_for

NODES = 3
# The pod network of the test bed is a file; kubeadm's reset takes it away as it takes any CNI's.
NETWORK = "#!/bin/sh\nset -e\nmkdir -p /etc/cni/net.d\ncp /opt/testbed/pods.conflist /etc/cni/net.d/\n"
POST = '#!/bin/sh\necho "post $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'


@pytest.fixture(scope="module")
def real():
    bed = Bed(ROOT / ".cache/e2e/real", real=NODES)
    try:
        wait_for("all real nodes to be Ready", bed.nodes_ready, 120)
        yield bed
    finally:
        bed.down()


@pytest.fixture(scope="module")
def server(real, keys):
    directory = ROOT / ".cache/e2e/real-server"
    shutil.rmtree(directory, ignore_errors=True)
    server = Server(directory)
    server.start()
    try:
        real.kubectl("apply", "-f", str(ROOT / "deploy/rbac-kubeadm.yaml"))
        # The manifest binds a service account; the test bed's controller is a user.
        real.kubectl("-n", "kube-system", "create", "rolebinding", "e2e", "--role=evenkeel-kubeadm", "--user=evenkeel")
        real.kubectl("create", "clusterrolebinding", "e2e", "--clusterrole=evenkeel-kubeadm", "--user=evenkeel")
        server.cli("cluster", "add", "real", "--kubeconfig", real.facts["kubeconfigs"]["evenkeel"])
        ssh = real.facts["ssh"]
        hosts = [word for h in real.hosts.values() for word in ("--host", f"{h['node']}={h['address']}:{h['port']}")]
        ignored = [word for check in real.facts["preflight_ignored"] for word in ("--ignore-preflight", check)]
        server.cli(
            "cluster", "set-machines", "real", "--user", ssh["user"], "--key", ssh["private_key"], *hosts,
            "--known-hosts", real.known_hosts(), "--recipe", "kubeadm",
            "--join-endpoint", real.facts["network"]["join_endpoint"], *ignored, "--limit", "240",
        )
        for name, path in keys.items():
            server.cli("keypair", "import", name, f"{path}.pub")
        yield server
    finally:
        server.stop()


def app(image):
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": False,
                    "containers": [{
                        "name": "c", "image": image,
                        "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
                    }],
                },
            },
        },
    }


def test_pool_of_real_nodes(real, server, keys, figures):
    api = sdk.client(server)
    cluster = [c for c in api.list_clusters(sdk.cce.ListClustersRequest()).items][0].metadata.uid
    real.apply(app(real.facts["images"]["app"]), budget("web", maxUnavailable=1))
    real.kubectl("rollout", "status", "deployment/web", "--timeout=120s", limit=130)
    pool = sdk.create_pool(api, cluster, "real").metadata.uid
    ids = [n.metadata.uid for n in sdk.nodes(api, cluster)]
    assert len(ids) == NODES
    sdk.migrate(api, cluster, pool, ids)
    name = sorted(real.hosts)[0]
    real.kubectl("label", "node", name, "people.example/own=kept")
    sdk.update_pool(api, cluster, pool, "real", pre=NETWORK, post=POST, wait=True, key="first", max_pods=32)
    before = {n["metadata"]["name"]: n for n in real.get("nodes")["items"]}
    begun = time.time()
    job = sdk.upgrade(api, cluster, pool, 1)
    ended = sdk.job_end(api, job, 420)
    assert ended.status.phase == "Success", ended.status.reason
    after = {n["metadata"]["name"]: n for n in real.get("nodes")["items"]}
    for node in real.hosts:
        assert after[node]["metadata"]["uid"] == before[node]["metadata"]["uid"], "the Node object stays"
        assert after[node]["status"]["capacity"]["pods"] == "32", "the pool's maxPods reached the kubelet"
        assert not after[node]["spec"].get("unschedulable")
        assert (real.file(node, "/var/log/e2e-steps") or "").splitlines() == [f"post {job} 1"]
        assert real.ssh(node, key=keys["first"]) and real.ssh(node, key=real.facts["ssh"]["private_key"])
    assert after[name]["metadata"]["labels"]["people.example/own"] == "kept"
    real.kubectl("rollout", "status", "deployment/web", "--timeout=120s", limit=130)
    tokens = real.kubectl("-n", "kube-system", "get", "secrets", "-o", "name")
    described = [s for s in real.get("secrets", "-n", "kube-system")["items"]
                 if s["type"] == "bootstrap.kubernetes.io/token" and "description" in s.get("data", {})]
    assert described == [], f"every token of a join is withdrawn: {tokens}"
    report = real.audit(sorted(real.hosts))
    assert report["max_out"] == 1 and report["bare_deletes"] == [], report
    assert all(count == 1 for count in report["accepted_evictions"].values()), report
    figures["kubeadm_sync_s_per_node"] = round((time.time() - begun) / NODES, 1)
