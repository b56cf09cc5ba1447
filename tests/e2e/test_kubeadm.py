"""Real nodes: systemd, containerd and kubelet on each. The recipe `kubeadm` takes them out and joins them again."""

import time

import sdk
from bed import budget, phase_times
from conftest import REAL_NODES

# The pod network of the test bed is a file; kubeadm's reset takes it away as it takes any CNI's.
NETWORK = "#!/bin/sh\nset -e\nmkdir -p /etc/cni/net.d\ncp /opt/testbed/pods.conflist /etc/cni/net.d/\n"
POST = '#!/bin/sh\necho "post $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'


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


def test_pool_of_real_nodes(real, real_server, keys, figures):
    server = real_server
    api = sdk.client(server)
    cluster = [c for c in api.list_clusters(sdk.cce.ListClustersRequest()).items][0].metadata.uid
    real.apply(app(real.facts["images"]["app"]), budget("web", maxUnavailable=1))
    real.kubectl("rollout", "status", "deployment/web", "--timeout=120s", limit=130)
    pool = sdk.create_pool(api, cluster, "real").metadata.uid
    ids = [n.metadata.uid for n in sdk.nodes(api, cluster)]
    assert len(ids) == REAL_NODES
    sdk.migrate(api, cluster, pool, ids)
    name = sorted(real.hosts)[0]
    real.kubectl("label", "node", name, "people.example/own=kept")
    sdk.update_pool(api, cluster, pool, "real", pre=NETWORK, post=POST, wait=True, key="first", max_pods=32)
    # What an earlier cluster may have left: a pod network's link, an image, data.
    image = real.facts["images"]["app"]
    real.on(name, f"ip link add kube-bridge type bridge && ctr -n k8s.io images tag {image} left.example/over:1"
                  " && mkdir -p /srv/data && touch /srv/data/left")
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
    moved = report["accepted_evictions"]
    assert len(moved) >= 4 and all(count == 1 for count in moved.values()), report
    left = real.on(name, "ip -o link; ctr -n k8s.io images ls -q; ls /srv/data")
    assert "kube-bridge" not in left and "left.example" not in left and "left" not in left.split(), left
    assert image in left, "the runtime has its own images again"
    figures["kubeadm_sync_s_per_node"] = round((time.time() - begun) / REAL_NODES, 1)
    spent = phase_times(server, job)
    assert sorted(spent) == sorted(real.hosts)
    mean = {phase: sum(times.get(phase, 0.0) for times in spent.values()) / REAL_NODES for phase in spent[name]}
    assert {"Draining", "Resetting", "Rejoining", "PostInstall"} <= set(mean), mean
    figures["kubeadm_cycle_s"] = {phase: round(seconds, 2) for phase, seconds in mean.items()}
