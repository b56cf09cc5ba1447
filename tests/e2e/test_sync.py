"""A node pool is synchronized for real: SDK, API server, hosts. Proof comes from the outside."""

import datetime
import json
import pathlib
import re
import statistics
import time

import pytest
from huaweicloudsdkcce import v3 as cce
from huaweicloudsdkcore.exceptions import exceptions

import sdk
from bed import HELD, budget, deployment, strip_ansi, wait_for

PRE = '#!/bin/sh\n# canary-in-a-script\necho "pre $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'
POST = '#!/bin/sh\necho "post $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'
PASSWORD = "Canary-Pass-9"
MAX = 3


def steps(bed, node, job):
    lines = (bed.file(node, "/var/log/e2e-steps") or "").splitlines()
    return [line for line in lines if job in line]


def iso(text):
    """Seconds since the epoch."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def empty_to_first_step(bed, server, nodes):
    """From the moment at which the server saw the last pod gone to the first step on the host: median, ms."""
    took = []
    log = strip_ansi((server.dir / "server.log").read_text())
    for node in nodes:
        seen = re.findall(rf'^(\S+Z) .*node={node} phase="Confirming"', log, re.M)
        journals = pathlib.Path(bed.hosts[node]["files"]).glob("var/lib/evenkeel/orders/*.reset/journal")
        for journal in journals:
            for line in journal.read_text().splitlines():
                entry = json.loads(line)
                if entry.get("entry") == "started" and entry["step"] == "teardown":
                    took.append(entry["at_ms"] - iso(seen[-1]) * 1000)
    return round(statistics.median(took))


def all_schedulable(bed):
    return [n["metadata"]["name"] for n in bed.get("nodes")["items"]
            if n["spec"].get("unschedulable") or "evenkeel.io/claim" in n["metadata"].get("annotations", {})] == []


def test_whole_pool(bed, server, api, cluster, pool, keys, figures):
    bed.apply(deployment("web", 12), budget("web", maxUnavailable=3), deployment("db", 6), budget("db", maxUnavailable=1))
    bed.kubectl("rollout", "status", "deployment/web", "--timeout=60s", limit=70)
    bed.kubectl("rollout", "status", "deployment/db", "--timeout=60s", limit=70)
    nodes = sorted(bed.hosts)
    assert bed.ssh(nodes[0], key=bed.facts["ssh"]["private_key"])
    assert not bed.ssh(nodes[0], password=PASSWORD), "the new password must not work before"
    sdk.update_pool(api, cluster, pool, "workers", pre=PRE, post=POST, wait=True, password=PASSWORD, labels={"e2e/tier": "back"})
    shown = sdk.show_pool(api, cluster, pool)
    assert PASSWORD not in str(shown) and "$6$" not in str(shown)
    assert shown.status.configuration_synced_node_count == 0
    figures["rss_at_rest_mb"] = round(server.rss_mb(), 1)

    posted = time.time()
    job = sdk.upgrade(api, cluster, pool, MAX)
    assert sdk.upgrade(api, cluster, pool, MAX) == job, "the same request again is the same job"
    with pytest.raises(exceptions.ClientRequestException) as refused:
        sdk.upgrade(api, cluster, pool, MAX - 1)
    assert refused.value.status_code == 429 and refused.value.error_code == "CCE.01429002"
    wait_for("the condition ConfigurationSynchronizing", lambda: any(
        c.type == "ConfigurationSynchronizing" and c.status == "True"
        for c in sdk.show_pool(api, cluster, pool).status.conditions or []), 10)
    ended = sdk.job_end(api, job, 240)
    figures["sync_8_nodes_s"] = round(time.time() - posted, 1)
    assert ended.status.phase == "Success", ended.status.reason
    assert ended.spec.type == "SyncNodePool" and len(ended.spec.sub_jobs) == len(nodes)
    assert {s.status.phase for s in ended.spec.sub_jobs} == {"Success"}

    report = bed.audit(nodes)
    figures["audit"] = {k: v for k, v in report.items() if not isinstance(v, (list, dict))}
    assert 1 <= report["max_out"] <= MAX, report
    moved = report["accepted_evictions"]
    figures["evictions_per_moved_pod"] = sum(moved.values()) / len(moved)
    figures["evictions_refused"] = sum(report["refused_evictions"].values())
    figures["post_to_first_cordon_ms"] = round((iso(report["first_cordon"]) - posted) * 1000)
    figures["empty_to_first_step_ms_median"] = empty_to_first_step(bed, server, nodes)
    assert report["bare_deletes"] == [], report
    assert all(count == 1 for count in report["accepted_evictions"].values()), report
    assert report["accepted_evictions"], "pods had to move"
    for node in nodes:
        assert steps(bed, node, job) == [f"pre {job} 1", f"post {job} 1"], node
        assert (bed.file(node, "/var/log/e2e-steps") or "").splitlines().count("install") == 1
        assert bed.ssh(node, password=PASSWORD), f"the new password must work on {node}"
        assert not bed.ssh(node, password="Wrong-Pass-1")
        assert bed.ssh(node, key=bed.facts["ssh"]["private_key"]), "the controller's key stays"
    assert all_schedulable(bed)
    labels = [n["metadata"]["labels"] for n in bed.get("nodes")["items"]]
    assert all(found.get("cce.cloud.com/cce-nodepool") == "workers" for found in labels)
    assert all(found.get("e2e/tier") == "back" for found in labels), "the pool's own labels reach its nodes"
    assert sdk.show_pool(api, cluster, pool).status.configuration_synced_node_count == len(nodes)
    assert all(n.status.configuration_up_to_date for n in sdk.nodes(api, cluster))
    assert all(n.status.phase == "Active" for n in sdk.nodes(api, cluster))


def test_nothing_to_do(api, cluster, pool):
    job = sdk.upgrade(api, cluster, pool, MAX)
    shown = sdk.job_end(api, job, 10)
    assert shown.status.phase == "Success" and not shown.spec.sub_jobs


def test_login_moves_to_another_key(bed, api, cluster, pool, keys):
    sdk.update_pool(api, cluster, pool, "workers", pre=PRE, post=POST, key="second", wait=False)
    nodes = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
    name = sorted(nodes)[0]
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[nodes[name]])
    ended = sdk.job_end(api, job, 120)
    assert ended.status.phase == "Success", ended.status.reason
    assert bed.ssh(name, key=keys["second"]) and not bed.ssh(name, key=keys["first"])
    assert steps(bed, name, job) == [f"pre {job} 1", f"post {job} 1"]


def test_killed_during_a_script(bed, server, api, cluster, pool, keys):
    slow = '#!/bin/sh\necho "slow $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\nsleep 6\necho "end $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\n'
    sdk.update_pool(api, cluster, pool, "workers", pre=slow, post=POST, key="first", wait=True)
    nodes = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
    chosen = sorted(nodes)[:3]
    job = sdk.upgrade(api, cluster, pool, MAX, node_i_ds=[nodes[n] for n in chosen])
    wait_for("the slow script to run", lambda: any(
        any(line.startswith("slow") for line in steps(bed, n, job)) for n in chosen), 60 + HELD)
    server.kill9()
    time.sleep(1)
    server.start()
    ended = sdk.job_end(api, job, 180)
    assert ended.status.phase == "Success", ended.status.reason
    for node in chosen:
        assert steps(bed, node, job) == [f"slow {job} 1", f"end {job} 1", f"post {job} 1"], node
    assert all_schedulable(bed)
    report = bed.audit(sorted(bed.hosts))
    assert report["max_out"] <= MAX and all(c == 1 for c in report["accepted_evictions"].values()), report


def test_blocked_by_a_budget(bed, api, cluster, pool):
    bed.apply(deployment("stuck", 2), budget("stuck", maxUnavailable=0))
    bed.kubectl("rollout", "status", "deployment/stuck", "--timeout=60s", limit=70)
    pods = bed.get("pods", "-l", "app=stuck")["items"]
    node = pods[0]["spec"]["nodeName"]
    nodes = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[nodes[node]])
    ended = sdk.job_end(api, job, 120)
    assert ended.status.phase == "Failed"
    assert "default/stuck" in ended.status.reason and "never" in ended.status.reason, ended.status.reason
    assert steps(bed, node, job) == [] and all_schedulable(bed)
    bed.kubectl("delete", "deployment/stuck", "pdb/stuck", "--wait=true")


def test_script_fails(bed, server, api, cluster, pool):
    bad = '#!/bin/sh\necho "bad $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-steps\necho the reason >&2\nexit 7\n'
    sdk.update_pool(api, cluster, pool, "workers", pre=bad, post=POST, key="first", wait=True)
    nodes = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
    job = sdk.upgrade(api, cluster, pool, MAX, retry_times=1)
    ended = sdk.job_end(api, job, 180)
    assert ended.status.phase == "Failed" and "7" in ended.status.reason, ended.status.reason
    touched = {s.spec.resource_name: s for s in ended.spec.sub_jobs}
    assert len(touched) == 1, "a bad configuration stops at the canary"
    name = next(iter(touched))
    assert steps(bed, name, job) == [f"bad {job} 1", f"bad {job} 2"]
    output = server.cli("get", "output", job, name, "--attempt", "2").stdout
    assert "the reason" in output
    out = [n["metadata"]["name"] for n in bed.get("nodes")["items"] if n["spec"].get("unschedulable")]
    assert out == [name], "the failed node stays cordoned, and no other"
    # A good configuration heals it.
    sdk.update_pool(api, cluster, pool, "workers", pre=PRE, post=POST, key="first", wait=True)
    job = sdk.upgrade(api, cluster, pool, MAX)
    assert sdk.job_end(api, job, 240).status.phase == "Success"
    assert all_schedulable(bed)


def test_people_keep_their_nodes(bed, api, cluster, pool):
    """A node that a person cordoned and one that a person holds are left alone, and the rest is synchronized."""
    sdk.update_pool(api, cluster, pool, "workers", pre=PRE + "# again\n", post=POST, key="first", wait=False)
    cordoned, held = sorted(bed.hosts)[:2]
    bed.kubectl("cordon", cordoned)
    bed.kubectl("annotate", "node", held, "evenkeel.io/hold=maintenance")
    try:
        job = sdk.upgrade(api, cluster, pool, MAX)
        ended = sdk.job_end(api, job, 240)
        assert ended.status.phase == "Success", ended.status.reason
        assert steps(bed, cordoned, job) == [] and steps(bed, held, job) == []
        assert all(len(steps(bed, n, job)) == 2 for n in sorted(bed.hosts)[2:])
        shown = bed.get("node", cordoned)
        assert shown["spec"].get("unschedulable"), "a person's cordon stays"
        # Named, the cordoned one is synchronized and ends cordoned as it was.
        ids = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
        job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids[cordoned]])
        assert sdk.job_end(api, job, 120).status.phase == "Success"
        assert len(steps(bed, cordoned, job)) == 2
        assert bed.get("node", cordoned)["spec"].get("unschedulable")
    finally:
        bed.kubectl("uncordon", cordoned)
        bed.kubectl("annotate", "node", held, "evenkeel.io/hold-")


def test_killed_at_named_points(bed, server, api, cluster, pool):
    """The process dies right after a write or an effect; the next one goes on, and nothing is run twice."""
    ids = {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}
    busy = sorted(p["spec"]["nodeName"] for p in bed.get("pods", "-l", "app=web")["items"])[0]
    for point in ("commit:after:4", "claim:after:1", "evict:after:1", "release:before:1"):
        server.stop()
        server.start(CRASH_AT=point)
        job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids[busy]])
        wait_for(f"the server to die at {point}", lambda: server.process.poll() is not None, 90 + HELD)
        server.start()
        ended = sdk.job_end(api, job, 120)
        assert ended.status.phase == "Success", (point, ended.status.reason)
        assert steps(bed, busy, job) == [f"pre {job} 1", f"post {job} 1"], point
        assert all_schedulable(bed), point
        busy = sorted(p["spec"]["nodeName"] for p in bed.get("pods", "-l", "app=web")["items"])[0]


def test_secrets_stay_secret(server):
    """Database, write-ahead log, backup and logs hold no secret in clear."""
    canaries = [PASSWORD.encode(), b"canary-in-a-script", server.credential["sk"].encode()]
    server.stop()
    backup = server.dir / "data" / "backup.db"
    server.cli("backup", "--data-dir", server.dir / "data", backup)
    server.start()
    assert backup.stat().st_size > 0
    for path in pathlib.Path(server.dir / "data").rglob("*"):
        if path.is_file() and "outputs" not in path.parts:
            content = path.read_bytes()
            for canary in canaries:
                assert canary not in content, f"{canary!r} stands in {path}"
    log = (server.dir / "server.log").read_bytes()
    assert all(c not in log for c in canaries)
