"""A hook truly reinstalls hosts: new SSH host keys, a new machine-id, no trace of us on the disk. Runs last: the keys that
the bed knows are no longer those of these hosts."""

import json
import re
import stat

import pytest

import sdk
from bed import HELD, run, wait_for

STEPS = "/var/log/e2e-steps"
HOOK = """#!/bin/sh
set -eu
case $EVENKEEL_NODE in
{pids}
esac
echo "$EVENKEEL_NODE $EVENKEEL_ATTEMPT" >> {dir}/hooked
sleep 2
nsenter --target "$pid" --mount --pid --uts --ipc --root --wd=/ /bin/sh -c '
set -eu
rm -rf /var/lib/evenkeel /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N "" -C new -f /etc/ssh/ssh_host_ed25519_key
od -An -N16 -tx1 /dev/urandom | tr -d " \\n" > /etc/machine-id
echo "$EVENKEEL_SSH_PUBLIC_KEY" > /root/.ssh/authorized_keys'
kill -HUP "$pid"
{announce}
"""
TRUE = """echo "{\\"host_key\\": \\"$(cut -d' ' -f1,2 "/proc/$pid/root/etc/ssh/ssh_host_ed25519_key.pub")\\"}\""""
FALSE = """echo '{"host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8"}'"""


def hook(server, bed, announce):
    pids = "\n".join(f"{node}) pid={host['init']['pid']} ;;" for node, host in bed.hosts.items())
    path = server.dir / "reimage.sh"
    path.write_text(HOOK.replace("{pids}", pids).replace("{dir}", str(server.dir)).replace("{announce}", announce))
    path.chmod(stat.S_IRWXU)
    return path


def hooked(server):
    path = server.dir / "hooked"
    return path.read_text().splitlines() if path.exists() else []


def with_hook(server, *limits, path):
    server.cli(
        "cluster", "set-machines", "bed", "--recipe", "script", "--teardown", server.dir / "teardown.sh", "--install",
        server.dir / "install.sh", "--reimage", *limits, "--", path,
    )


def node_id(api, cluster, name):
    return next(n.metadata.uid for n in sdk.nodes(api, cluster) if n.metadata.name == name)


def steps(bed, node):
    return (bed.file(node, STEPS) or "").splitlines()


@pytest.fixture(scope="module", autouse=True)
def recipe_back(bed, server):
    ssh = bed.facts["ssh"]
    server.cli(
        "cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"], "--known-hosts",
        bed.known_hosts(),
    )
    yield
    server.cli(
        "cluster", "set-machines", "bed", "--recipe", "script", "--teardown", server.dir / "teardown.sh", "--install",
        server.dir / "install.sh",
    )


def test_a_killed_controller_reinstalls_once(bed, server, api, cluster, pool):
    """`kill -9` while the hook runs; a second sync finds the machine by its new key and machine-id, which its Node does not
    show."""
    node = "node-7"
    before, old = len(steps(bed, node)), bed.file(node, "/etc/machine-id")
    with_hook(server, path=hook(server, bed, TRUE))
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[node_id(api, cluster, node)], retry_times=0)
    wait_for("the hook to run", lambda: hooked(server), 60 + HELD, every=0.1)
    server.kill9()
    server.start()
    ended = sdk.job_end(api, job, 120)
    assert ended.status.phase == "Success", ended.status.reason
    assert hooked(server) == [f"{node} 1"]
    assert bed.file(node, "/etc/machine-id") != old
    ran = [line for line in steps(bed, node)[before:] if line in ("teardown", "install")]
    assert ran == ["teardown", "install"]
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[node_id(api, cluster, node)], retry_times=0)
    ended = sdk.job_end(api, job, 120)
    assert ended.status.phase == "Success", ended.status.reason
    assert len(hooked(server)) == 2


def test_another_key_is_refused_and_a_scan_shows_the_right_one(bed, server, api, cluster, pool):
    node = "node-8"
    with_hook(server, "--return-limit", "3", path=hook(server, bed, FALSE))
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[node_id(api, cluster, node)], retry_times=0)
    ended = sdk.job_end(api, job, 120)
    assert ended.status.phase == "Failed"
    shown = server.cli("get", "job", job, "-o", "json").stdout
    key = bed.hosts[node]
    real = run("ssh-keygen", "-l", "-f", f"{key['files']}/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[1]
    named = set(re.findall(r"SHA256:[A-Za-z0-9+/]+", shown))
    assert real in named and len(named) == 2, shown
    assert bed.file(node, "/var/lib/evenkeel/fence.json") is None, "nothing was put on an unknown machine"
    ssh = bed.facts["ssh"]
    refused = server.cli("cluster", "set-machines", "bed", "--user", ssh["user"], "--scan", check=False, stdin="")
    assert refused.returncode != 0 and real in refused.stderr
    assert json.loads(server.cli("cluster", "list", "-o", "json").stdout)
