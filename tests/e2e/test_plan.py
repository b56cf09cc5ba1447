"""What `evenkeel plan` says of each node's pods is what `kubectl drain --dry-run=server` says, on one real API server."""

import json
import re
import shutil

import pytest

from bed import ROOT, Bed, Server, budget, deployment, wait_for

NODES = ["plan-1", "plan-2", "plan-3"]
# Differences to kubectl: what upstream does | what we do | why.
# Finished pods are evicted | they stay | they hold nothing, and their controller cleans up.
TEMPLATE = {"lifeCycle": {"preInstall": "ZWNobyAx"}, "login": {"userPassword": {"username": "root", "password": "Canary-Pw-9"}}}


def bare(name, node, namespace="default", **spec):
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1,
                 "containers": [{"name": "main", "image": "played"}]} | spec,
    }


def twice(name):
    found = budget(f"{name}-too", minAvailable=1)
    found["spec"]["selector"]["matchLabels"]["app"] = name
    return found


def with_scratch(found):
    found["spec"]["template"]["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    return found


def objects():
    pod = {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": "played"}]}}
    mirror = bare("static-plan-1", "plan-1")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"}
    job = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "played"}]}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}},
        deployment("web", 9), budget("web", maxUnavailable=1),
        deployment("web", 3, namespace="other"),
        deployment("frozen", 2), budget("frozen", minAvailable=2),
        deployment("twice", 2), budget("twice", maxUnavailable=1), twice("twice"),
        with_scratch(deployment("scratch", 3)),
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "default"},
         "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": pod}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "batch", "namespace": "default"},
         "spec": {"completions": 3, "parallelism": 3, "template": job}},
        bare("lone", "plan-1"), bare("lone", "plan-2", "other"), bare("ended", "plan-3"),
        bare("lone-scratch", "plan-3", volumes=[{"name": "s", "emptyDir": {}}]), mirror,
    ]


@pytest.fixture(scope="module")
def played():
    """Three played nodes with every kind of pod."""
    bed = Bed(ROOT / ".cache/e2e/plan-bed")
    try:
        for name in NODES:
            bed.apply({"apiVersion": "v1", "kind": "Node", "metadata": {
                "name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"kubernetes.io/hostname": name}}})
        wait_for("the nodes to be Ready", lambda: len([
            n for n in bed.get("nodes")["items"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in n.get("status", {}).get("conditions", []))
        ]) == len(NODES), 60)
        bed.apply(*objects())
        bed.kubectl("patch", "pod", "ended", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Failed"}}')
        for name in ["web", "frozen", "twice", "scratch"]:
            bed.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s", limit=70)
        wait_for("the daemons and the job", lambda: settled(bed), 60)
        yield bed
    finally:
        bed.down()


def settled(bed):
    pods = bed.get("pods", "-A")["items"]
    def count(app, phase):
        return len([p for p in pods if p["metadata"]["name"].startswith(app) and p["status"]["phase"] == phase])
    budgets = bed.get("pdb", "-A")["items"]
    seen = all(b.get("status", {}).get("observedGeneration") == b["metadata"]["generation"] for b in budgets)
    frozen = [b for b in budgets if b["metadata"]["name"] == "frozen"][0]["status"]
    return (count("agent", "Running") == 3 and count("batch", "Succeeded") == 3 and count("lone", "Running") == 3
            and seen and frozen["currentHealthy"] == 2)


@pytest.fixture(scope="module")
def planner(played):
    directory = ROOT / ".cache/e2e/plan-server"
    shutil.rmtree(directory, ignore_errors=True)
    server = Server(directory)
    server.start()
    try:
        server.cli("cluster", "add", "played", "--kubeconfig", played.facts["kubeconfigs"]["evenkeel"])
        wait_for("the server to know all nodes", lambda: len(
            json.loads(server.cli("node", "list", "-o", "json").stdout)["items"]) == len(NODES), 30)
        yield server
    finally:
        server.stop()


def drained(bed, node):
    """The pods that kubectl would evict, whether or not a budget lets it."""
    flags = ["--dry-run=server", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=4s"]
    from bed import run
    done = run(bed.facts["kubectl"], "--kubeconfig", bed.facts["kubeconfigs"]["admin"], "drain", node, *flags,
               check=False, limit=60)
    return set(re.findall(r"evicting pod (\S+/\S+)", done.stdout + done.stderr))


def calls(bed, after):
    """What the product asked of the API server, from the audit log."""
    found = []
    with open(bed.facts["audit_log"]) as log:
        log.seek(after)
        for line in log:
            entry = json.loads(line)
            if entry["user"]["username"] == "evenkeel":
                found.append(entry)
    return found


def test_plan_lists_what_kubectl_lists(played, planner):
    template = planner.dir / "template.json"
    template.write_text(json.dumps(TEMPLATE))
    with open(played.facts["audit_log"]) as log:
        before = log.seek(0, 2)
    arguments = ["plan", "DefaultPool", "--template", template, "--max-unavailable", "2"]
    plan = json.loads(planner.cli(*arguments, "--json").stdout)
    pods = {f"{p['metadata']['namespace']}/{p['metadata']['name']}": p for p in played.get("pods", "-A")["items"]}
    finished = {name for name, pod in pods.items() if pod["status"]["phase"] in ("Succeeded", "Failed")}
    assert len(finished) == 4
    nodes = {node["name"]: node for node in plan["nodes"]}
    assert sorted(nodes) == NODES
    compared = 0
    for name, node in nodes.items():
        blocked = {c["pod"] for c in node["concerns"] if c["blocks"]}
        ours = set(node["moves"]) | blocked
        theirs = drained(played, name)
        assert theirs - ours <= finished, f"{name}: only kubectl moves {theirs - ours - finished}"
        assert ours - theirs == set(), f"{name}: only we move {ours - theirs}"
        here = {k for k, p in pods.items() if p["spec"].get("nodeName") == name}
        assert node["stays"] == len(here - ours), name
        compared += len(theirs)
    assert compared >= 20
    kinds = {c["kind"]: {x["pod"].split("/")[1].rsplit("-", 2)[0] for n in plan["nodes"] for x in n["concerns"] if x["kind"] == c["kind"]}
             for n in plan["nodes"] for c in n["concerns"]}
    assert kinds["budgetNeverAllows"] == {"frozen"} and kinds["twoBudgets"] == {"twice"}
    assert "scratch" in kinds["localData"] and kinds["noController"]
    answers = {t["pod"].split("/")[1].rsplit("-", 2)[0]: t["answer"] for t in plan["trials"]}
    assert answers["frozen"] == "refused" and answers["twice"] == "impossible", plan["trials"]
    assert "allowed" in {t["answer"] for t in plan["trials"] if t["pod"].startswith("default/web")}, plan["trials"]
    assert any("has no recipe" in line for line in plan["missing"])

    changed = [e for e in calls(played, before) if e["verb"] not in ("get", "list", "watch")]
    assert changed and all(
        e["objectRef"].get("subresource") == "eviction" and e["requestObject"]["deleteOptions"]["dryRun"] == ["All"]
        for e in changed
    ), [(e["verb"], e["requestURI"]) for e in changed]
    assert {f"{p['metadata']['namespace']}/{p['metadata']['name']}" for p in played.get("pods", "-A")["items"]} == set(pods)

    page = planner.cli(*arguments).stdout
    assert len(page.splitlines()) < 60 and "Blocks a drain" in page and "frozen" in page, page
    print("\n" + page)
