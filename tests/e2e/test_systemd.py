"""Hosts with systemd: where scripts run, what ends them, reboots in the middle, and the logins that are real. Kubelets stay up: the
recipe's commands are the tests' own."""

import pathlib
import re
import time

import pytest

import sdk
from bed import wait_for
from test_hosts import attempts_of, ids, schedulable, script

PASSWORD, OTHER = "Canary-Pass-9", "Canary-Pass-8"
ORDER = "/var/log/e2e-order"


@pytest.fixture(scope="module")
def server(real, real_server):
    yield real_server


@pytest.fixture(scope="module")
def recipe(real, server):
    """Sets the commands of the recipe `script`."""
    ssh = real.facts["ssh"]
    hosts = [word for h in real.hosts.values() for word in ("--host", f"{h['node']}={h['address']}:{h['port']}")]

    def set_to(install="", *more):
        files = {}
        for step, text in (("teardown", ""), ("install", install)):
            files[step] = server.dir / f"systemd-{step}.sh"
            files[step].write_text(f"#!/bin/sh\n{text}\n")
        server.cli(
            "cluster", "set-machines", "real", "--user", ssh["user"], "--key", ssh["private_key"], *hosts, "--known-hosts",
            real.known_hosts(), "--recipe", "script", "--teardown", files["teardown"], "--install", files["install"], *more,
        )

    set_to()
    return set_to


@pytest.fixture(scope="module")
def world(server, recipe, real):
    """Client, cluster and the pool of all real nodes."""
    api = sdk.client(server)
    cluster = api.list_clusters(sdk.cce.ListClustersRequest()).items[0].metadata.uid
    pools = api.list_node_pools(sdk.cce.ListNodePoolsRequest(cluster_id=cluster)).items
    pool = next((p.metadata.uid for p in pools if p.metadata.name == "real"), None)
    if not pool:
        pool = sdk.create_pool(api, cluster, "real").metadata.uid
        sdk.migrate(api, cluster, pool, list(ids(api, cluster).values()))
    return api, cluster, pool


def reset(world, node, limit=120, **spec):
    api, cluster, pool = world
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)[node]], **spec)
    return job, lambda: sdk.job_end(api, job, limit)


def units(real, node):
    return real.on(node, "systemctl list-units --all --no-legend --plain 'evenkeel-*'").split()


def test_scripts_run_in_a_scope_that_outlives_sshd(real, world, recipe):
    """Everything that belongs to sshd's unit is killed from within the script: the order is not part of it."""
    node = sorted(real.hosts)[0]
    body = "cat /proc/self/cgroup > /root/cgroup\nsystemctl kill --signal=KILL --kill-who=all ssh.service\nsleep 2"
    sdk.update_pool(*world, "real", pre=script(body), post="", key="first", wait=True)
    job, end = reset(world, node, retry_times=0)
    ended = end()
    assert ended.status.phase == "Success", ended.status.reason
    assert attempts_of(real, node, job) == ([1], [1])
    scope = rf"/evenkeel-{job}\.[^/]*\.1\.reset\.scope$"
    assert re.search(scope, real.on(node, "cat /root/cgroup"), re.M), real.on(node, "cat /root/cgroup")
    wait_for("the scope to be gone", lambda: not units(real, node), 10)
    assert schedulable(real, node)


def test_at_its_limit_a_step_ends_with_all_it_started(real, world, recipe):
    """TERM, then KILL, also for what has left the script's process group; then nothing keeps the scope."""
    node = sorted(real.hosts)[1]
    recipe(
        f'echo "install $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> {ORDER}\n'
        'if mkdir /run/stubborn 2>/dev/null; then trap "echo term >> /run/heard" TERM\n'
        'timeout 300 sh -c "trap \'\' TERM; while :; do sleep 0.2; date >> /run/still-here; done" &\n'
        "while :; do sleep 0.2; done; fi",
        "--limit", "3",
    )
    try:
        sdk.update_pool(*world, "real", pre=script("# limit"), post="", key="first", wait=True)
        job, end = reset(world, node, retry_times=0)
        ended = end()
        assert ended.status.phase == "Failed" and "time limit" in ended.status.reason, ended.status.reason
        assert [l for l in real.file(node, ORDER).splitlines() if job in l] == [f"install {job} 1"]
        assert "term" in real.on(node, "cat /run/heard"), "TERM came first"
        before = real.on(node, "wc -l < /run/still-here")
        time.sleep(1)
        assert real.on(node, "wc -l < /run/still-here") == before, "it still runs"
        wait_for("the scope to be gone", lambda: not units(real, node), 10)
        ended = reset(world, node, retry_times=0)[1]()
        assert ended.status.phase == "Success" and schedulable(real, node), ended.status.reason
    finally:
        recipe()


REBOOTS = [
    ("shutdown, goes on", "systemctl reboot", ["--resume"]),
    ("shutdown", "systemctl reboot", []),
    ("power cut, goes on", "systemctl reboot --force --force", ["--resume"]),
]


@pytest.mark.parametrize("what,command,more", REBOOTS, ids=[row[0] for row in REBOOTS])
def test_a_reboot_in_the_middle_of_a_script(real, world, recipe, what, command, more):
    """In the install step: declared idempotent, it runs again in the same attempt; otherwise the attempt fails with that reason."""
    node = sorted(real.hosts)[2]
    recipe(
        f'set -e\necho "install $EVENKEEL_JOB $EVENKEEL_ATTEMPT $(cat /proc/sys/kernel/random/boot_id)" >> {ORDER}\n'
        f"if mkdir /root/rebooted-$EVENKEEL_JOB 2>/dev/null; then sync; {command}; sleep 300; fi",
        *more,
    )
    try:
        sdk.update_pool(*world, "real", pre=script(f"# {what}"), post="", key="first", wait=True)
        job, end = reset(world, node, limit=180, retry_times=0)
        ended = end()
        boots = [line.split()[2:] for line in real.file(node, ORDER).splitlines() if job in line]
        assert attempts_of(real, node, job) == ([1], [1])
        if more:
            assert ended.status.phase == "Success", ended.status.reason
            assert len(boots) == 2 and boots[0][0] == boots[1][0] == "1" and boots[0][1] != boots[1][1], boots
        else:
            assert ended.status.phase == "Failed" and len(boots) == 1, ended.status.reason
            assert "the host was rebooted while it ran" in ended.status.reason, ended.status.reason
            recipe()
            ended = reset(world, node, retry_times=0)[1]()
            assert ended.status.phase == "Success", ended.status.reason
        assert schedulable(real, node)
    finally:
        recipe()


def sshd_says(real, node):
    wanted = "passwordauthentication", "permitrootlogin", "pubkeyauthentication"
    said = real.on(node, "sshd -T -C user=root,host=127.0.0.1,addr=127.0.0.1").splitlines()
    return {word: value for word, value in (line.split(" ", 1) for line in said if " " in line) if word in wanted}


def shadow(real, node):
    return real.on(node, "getent shadow root").split(":")[1]


def test_logins_old_and_new(real, world, recipe, keys):
    """Password, another password, then a key and no password: each old one is refused by the real sshd, each new one is let in."""
    api, cluster, pool = world
    node = sorted(real.hosts)[0]
    before = sshd_says(real, node)

    def set_to(**login):
        sdk.update_pool(*world, "real", pre=script(f"# {sorted(login)} {login.get('password')}"), post="", wait=True, **login)
        job, end = reset(world, node, retry_times=0)
        ended = end()
        assert ended.status.phase == "Success", ended.status.reason
        assert real.ssh(node, key=real.facts["ssh"]["private_key"]), "the controller's key stays"

    assert not real.ssh(node, password=PASSWORD)
    set_to(password=PASSWORD)
    first = shadow(real, node)
    assert first.startswith("$6$")
    assert real.ssh(node, password=PASSWORD) and not real.ssh(node, password=OTHER)
    assert sshd_says(real, node) | {"passwordauthentication": "yes", "permitrootlogin": "yes"} == sshd_says(real, node)
    set_to(password=OTHER)
    assert shadow(real, node) not in ("", first)
    assert real.ssh(node, password=OTHER) and not real.ssh(node, password=PASSWORD)
    set_to(key="second", remove_password=True)
    assert shadow(real, node).startswith("!")
    assert not real.ssh(node, password=OTHER) and not real.ssh(node, password=PASSWORD)
    assert real.ssh(node, key=keys["second"]) and not real.ssh(node, key=keys["first"])
    assert sshd_says(real, node) == before, "sshd is as it was"
    files = pathlib.Path(real.hosts[node]["files"])
    journals = list(files.glob("var/lib/evenkeel/orders/*/journal"))
    assert journals and not any(PASSWORD in j.read_text() or "$6$" in j.read_text() for j in journals)
