"""Many machines through one server. Longer than the test command allows: `cargo xtask soak --hosts`."""

import json
import shutil
import threading
import time

import sdk
from bed import ROOT, Bed, Server, run, wait_for

FIFTY = 50
WINDOW = 20
IDLE = 1000
# What a thousand idle hosts may cost the server.
IDLE_MB_MAX = 50
STEP = '#!/bin/sh\necho "pre $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'


def served(bed, name):
    directory = ROOT / ".cache/soak" / name
    shutil.rmtree(directory, ignore_errors=True)
    server = Server(directory)
    server.start()
    server.cli("cluster", "add", name, "--kubeconfig", bed.facts["kubeconfigs"]["evenkeel"])
    return server


def test_fifty_hosts_twenty_at_a_time():
    bed = Bed(ROOT / ".cache/soak/bed", FIFTY)
    server = None
    try:
        wait_for("all nodes to be Ready", bed.nodes_ready, 120)
        server = served(bed, "fifty")
        ssh = bed.facts["ssh"]
        files = {}
        for step in ("teardown", "install"):
            files[step] = server.dir / f"{step}.sh"
            files[step].write_text(f"#!/bin/sh\nexec /opt/testbed/{step}.sh\n")
        server.cli(
            "cluster", "set-machines", "fifty", "--user", ssh["user"], "--key", ssh["private_key"],
            "--known-hosts", bed.known_hosts(), "--recipe", "script",
            "--teardown", files["teardown"], "--install", files["install"],
        )
        key = server.dir / "first"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        server.cli("keypair", "import", "first", f"{key}.pub")
        api = sdk.client(server)
        cluster = api.list_clusters(sdk.cce.ListClustersRequest()).items[0].metadata.uid
        pool = sdk.create_pool(api, cluster, "fifty").metadata.uid
        ids = [n.metadata.uid for n in sdk.nodes(api, cluster)]
        assert len(ids) == FIFTY
        sdk.migrate(api, cluster, pool, ids)
        sdk.update_pool(api, cluster, pool, "fifty", pre=STEP, key="first")
        peak, stop = [0.0], threading.Event()

        def watch():
            while not stop.wait(0.2):
                peak[0] = max(peak[0], server.rss_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.time()
        job = sdk.upgrade(api, cluster, pool, WINDOW)
        ended = sdk.job_end(api, job, 540)
        took = time.time() - begun
        stop.set()
        watcher.join()
        assert ended.status.phase == "Success", ended.status.reason
        for node in bed.hosts:
            assert (bed.file(node, "/var/log/e2e-steps") or "").splitlines() == [f"pre {job} 1"], node
        report = bed.audit(sorted(bed.hosts))
        assert report["max_out"] <= WINDOW, report
        print(f"\nfigures: {json.dumps({'hosts': FIFTY, 'took_s': round(took, 1), 'rss_peak_mb': round(peak[0], 1), 'max_out': report['max_out']})}")
    finally:
        if server:
            server.stop()
        bed.down()


def test_a_thousand_idle_hosts():
    state = ROOT / ".cache/soak/idle-bed"
    bed = Bed(state)
    server = None
    try:
        server = served(bed, "idle")
        time.sleep(2)
        before = server.rss_mb()
        nodes = [{
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": f"idle-{n}", "annotations": {"kwok.x-k8s.io/node": "fake"}},
        } for n in range(IDLE)]
        bed.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}), limit=180)
        wait_for("the server to know all nodes", lambda: len(json.loads(
            server.cli("node", "list", "--output", "json").stdout)["items"]) == IDLE, 90, every=2)
        time.sleep(5)
        cost = server.rss_mb() - before
        print(f"\nfigures: {json.dumps({'idle_hosts': IDLE, 'cost_mb': round(cost, 1)})}")
        assert cost < IDLE_MB_MAX
    finally:
        if server:
            server.stop()
        bed.down()
