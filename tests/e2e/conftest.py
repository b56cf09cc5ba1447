import json
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from bed import ROOT, Bed, Server, run, wait_for  # noqa: E402
import sdk  # noqa: E402

HOSTS = 8
REAL_NODES = 3
# What a first run looks like comes before what goes wrong, on one bed.
FIRST = ["test_sync", "test_hosts"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(name) if (name := item.module.__name__) in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def bed():
    bed = Bed(ROOT / ".cache/e2e/bed", HOSTS)
    try:
        wait_for("all nodes to be Ready", bed.nodes_ready, 60)
        yield bed
    finally:
        bed.down()


@pytest.fixture(scope="session")
def keys():
    """Two key pairs that the tests hold."""
    directory = ROOT / ".cache/e2e/keys"
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in ("first", "second"):
        path = directory / name
        if not path.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path)
        made[name] = path
    return made


@pytest.fixture(scope="session")
def server(bed, keys):
    directory = ROOT / ".cache/e2e/server"
    shutil.rmtree(directory, ignore_errors=True)
    server = Server(directory)
    server.start()
    try:
        server.cli("cluster", "add", "bed", "--kubeconfig", bed.facts["kubeconfigs"]["evenkeel"])
        ssh = bed.facts["ssh"]
        teardown = directory / "teardown.sh"
        install = directory / "install.sh"
        teardown.write_text("#!/bin/sh\nset -e\necho teardown >> /var/log/e2e-steps\n/opt/testbed/teardown.sh\n")
        install.write_text("#!/bin/sh\nset -e\necho install >> /var/log/e2e-steps\n/opt/testbed/install.sh\n")
        server.cli(
            "cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"],
            "--known-hosts", bed.known_hosts(), "--recipe", "script", "--teardown", teardown, "--install", install,
        )
        for name, path in keys.items():
            server.cli("keypair", "import", name, f"{path}.pub")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def api(server):
    return sdk.client(server)


@pytest.fixture(scope="session")
def cluster(api):
    from huaweicloudsdkcce import v3 as cce

    items = api.list_clusters(cce.ListClustersRequest()).items
    assert [c.metadata.name for c in items] == ["bed"]
    return items[0].metadata.uid


@pytest.fixture(scope="session")
def pool(api, cluster, bed):
    """A pool that holds all hosts' nodes."""
    created = sdk.create_pool(api, cluster, "workers")
    assert created.metadata.uid and created.status.phase == ""
    listed = wait_for("all nodes in DefaultPool", lambda: (
        found if len(found := sdk.nodes(api, cluster)) == HOSTS else None), 30)
    sdk.migrate(api, cluster, created.metadata.uid, [n.metadata.uid for n in listed])
    return created.metadata.uid


@pytest.fixture(scope="session")
def real():
    """Hosts with systemd that are real nodes."""
    bed = Bed(ROOT / ".cache/e2e/real", real=REAL_NODES)
    try:
        wait_for("all real nodes to be Ready", bed.nodes_ready, 120)
        yield bed
    finally:
        bed.down()


@pytest.fixture(scope="session")
def real_server(real, keys):
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
            "--join-endpoint", real.facts["network"]["join_endpoint"], *ignored, "--limit", "240", "--data-dir", "/srv/data",
        )
        for name, path in keys.items():
            server.cli("keypair", "import", name, f"{path}.pub")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def figures():
    """Measured figures; printed at the end."""
    found = {}
    yield found
    print("\nfigures: " + json.dumps(found))
