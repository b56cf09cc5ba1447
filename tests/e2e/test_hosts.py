"""Faults on real hosts. Everywhere: a script runs at most once per job, node and attempt, the job tells the truth, and
the node is back in service or reported with the reason. Runs after test_sync.py (see conftest.py)."""

import datetime
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

import bed as beds
import sdk
from bed import ROOT, Server, run, wait_for

STEPS = "/var/log/e2e-steps"
MAX = 3


def proc(pid, file):
    try:
        return pathlib.Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""


class Machine:
    """A test host from outside: its processes, its power, its files."""

    def __init__(self, bed, node):
        self.host = bed.hosts[node]
        self.init = self.host["init"]["pid"]
        self.started = None

    def enter(self, script, check=True):
        return run(
            "nsenter", "--target", self.init, "--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/",
            "/bin/sh", "-c", script, check=check, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, limit=30,
        ).stdout

    def sessions(self):
        """sshd's processes for connections; runners that outlived theirs are children of PID 1 as well."""
        pids = proc(self.init, f"task/{self.init}/children").split()
        return [int(pid) for pid in pids if proc(pid, "comm").strip().startswith("sshd")]

    def cut(self):
        for pid in self.sessions():
            for victim in [*proc(pid, f"task/{pid}/children").split(), pid]:
                if proc(victim, "comm").strip().startswith("sshd"):
                    try:
                        os.kill(int(victim), signal.SIGKILL)
                    except ProcessLookupError:
                        pass

    def off(self):
        os.kill(self.init, signal.SIGKILL)
        wait_for("the host to be off", lambda: not proc(self.init, "cmdline"), 10, every=0.05)
        if self.started:
            self.started.wait(10)

    def on(self):
        """Boots it with its files, as after a power cut."""
        self.started = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private", "sh",
             str(ROOT / "testbed/host/init.sh"), self.host["dir"], self.host["base"], self.host["node"],
             self.host["address"], str(self.host["port"])],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        children = lambda: proc(self.started.pid, f"task/{self.started.pid}/children").split()
        self.init = int(wait_for("PID 1", children, 10, every=0.05)[0])
        # Whoever comes to this host later looks for it where it is now.
        self.host["init"]["pid"] = self.init
        wait_for("sshd to listen", lambda: proc(self.init, "comm").strip() == "sshd", 20, every=0.05)


# To the end of the session: a host that was switched on again belongs to this process, and later tests use it as well.
@pytest.fixture(scope="session")
def machines(bed):
    made = {node: Machine(bed, node) for node in sorted(bed.hosts)}
    yield made
    for machine in made.values():
        if machine.started:
            machine.started.kill()
            machine.started.wait(10)


def lines(bed, node, job):
    return [line for line in (bed.file(node, STEPS) or "").splitlines() if job in line]


def attempts_of(bed, node, job):
    """Attempts whose script began, and those whose script ended; none twice."""
    found = {word: [int(l.split()[2]) for l in lines(bed, node, job) if l.startswith(word)] for word in ("pre", "end")}
    for word, numbers in found.items():
        assert len(numbers) == len(set(numbers)), f"{node}: {word} twice in one attempt: {numbers}"
    return found["pre"], found["end"]


def script(body="", end=True):
    text = f'#!/bin/sh\necho "pre $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> {STEPS}\n{body}\n'
    return text + (f'echo "end $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> {STEPS}\n' if end else "")


def ids(api, cluster):
    return {n.metadata.name: n.metadata.uid for n in sdk.nodes(api, cluster)}


def schedulable(bed, node):
    shown = bed.get("node", node)
    return not shown["spec"].get("unschedulable") and "evenkeel.io/claim" not in shown["metadata"].get("annotations", {})


def sub_jobs(job):
    return {s.spec.resource_name: s.status for s in job.spec.sub_jobs}


def test_scripts_that_misbehave(bed, server, api, cluster, pool, machines):
    """One run, another fault on every host; each that fails is retried and ends well."""
    faults = r"""
case $(hostname).$EVENKEEL_ATTEMPT in
node-1.1) sleep 300 & ;;
node-2.1) head -c 1073741824 /dev/zero | tr '\0' x; echo; echo the last line ;;
node-3.1) rm -rf /var/lib/evenkeel; sleep 2.5 ;;
node-4.1) for p in /proc/[0-9]*; do
  [ "$(cat $p/comm 2>/dev/null)" = sshd ] && [ "${p#/proc/}" != 1 ] && kill -9 "${p#/proc/}"; done; sleep 1.5 ;;
node-5.1) exit 255 ;;
node-6.1) kill -9 $PPID; sleep 300 ;;
node-7.1) dd if=/dev/zero of=/var/lib/evenkeel/fill bs=1M 2>/dev/null; df -m /var/lib/evenkeel | tail -1 ;;
node-8.1) touch /run/pull-the-plug; sleep 300 ;;
esac
"""
    machines["node-7"].enter("mkdir -p /var/lib/evenkeel && mount -t tmpfs -o size=80m tmpfs /var/lib/evenkeel")
    sdk.update_pool(api, cluster, pool, "workers", pre=script(faults), post="", key="first", wait=True)
    job = sdk.upgrade(api, cluster, pool, MAX, retry_times=2)

    def plug():
        files = machines["node-8"]
        flag = pathlib.Path(f"/proc/{files.init}/root/run/pull-the-plug")
        wait_for("the script on node-8", flag.exists, 150 + beds.HELD)
        files.off()
        time.sleep(1)
        files.on()

    pulling = threading.Thread(target=plug)
    pulling.start()
    ended = sdk.job_end(api, job, 180)
    pulling.join(10)
    shown = server.cli("get", "job", job).stdout
    assert ended.status.phase == "Success", f"{ended.status.reason}\n{shown}"
    expected = {
        "node-1": ([1], [1]), "node-2": ([1], [1]), "node-4": ([1], [1]), "node-7": ([1], [1]),
        "node-5": ([1, 2], [2]), "node-6": ([1, 2], [2]), "node-8": ([1, 2], [2]),
        # Its later steps went with the directory: the attempt failed and said so.
        "node-3": ([1, 2], [1, 2]),
    }
    found = {node: attempts_of(bed, node, job) for node in expected}
    assert found == expected, shown
    assert all(schedulable(bed, node) for node in bed.hosts)
    output = lambda node, n: server.cli("get", "output", job, node, "--attempt", str(n)).stdout
    flood = output("node-2", 1)
    assert "the last line" in flood and "left out]" in flood and len(flood) < 2 << 20
    assert " 0 100% " in re.sub(r"\s+", " ", output("node-7", 1)), "the disk was full when the script ended"
    machines["node-7"].enter("umount /var/lib/evenkeel")
    # The killed runner's script did not run on beside the next attempt.
    assert "sleep" not in machines["node-6"].enter("cat /proc/[0-9]*/comm")
    machines["node-1"].enter("for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = sleep ] && kill ${p#/proc/}; done; true")


def test_a_step_that_ignores_term(bed, server, api, cluster, pool, machines):
    """The limit ends it with everything it started, also what has left its process group."""
    ssh = bed.facts["ssh"]
    slow = server.dir / "install-stubborn.sh"
    slow.write_text(
        "#!/bin/sh\nif mkdir /run/stubborn 2>/dev/null; then trap '' TERM\n"
        "timeout 300 sh -c 'trap \"\" TERM; while :; do sleep 0.2; date >> /run/still-here; done'\nfi\n"
        "echo install >> /var/log/e2e-steps\n/opt/testbed/install.sh\n"
    )
    common = ["cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"], "--known-hosts",
              bed.known_hosts(), "--recipe", "script", "--teardown", server.dir / "teardown.sh"]
    server.cli(*common, "--install", slow, "--limit", "3")
    try:
        sdk.update_pool(api, cluster, pool, "workers", pre=script("# stubborn"), key="first", wait=True)
        job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)["node-1"]])
        ended = sdk.job_end(api, job, 90)
        assert ended.status.phase == "Success", ended.status.reason
        assert attempts_of(bed, "node-1", job) == ([1, 2], [1, 2])
        before = machines["node-1"].enter("wc -l < /run/still-here")
        time.sleep(0.6)
        assert machines["node-1"].enter("wc -l < /run/still-here") == before, "attempt 1 still runs beside the node's pods"
    finally:
        server.cli(*common, "--install", server.dir / "install.sh", "--limit", "1800")
    assert schedulable(bed, "node-1")


def test_the_connection_is_cut_all_the_time(bed, server, api, cluster, pool, machines):
    sdk.update_pool(api, cluster, pool, "workers", pre=script("sleep 8; echo said"), key="second", wait=True)
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)["node-2"]])
    cuts, dice, until = 0, random.Random(7), time.monotonic() + 20
    while cuts < 12 and time.monotonic() < until:
        if machines["node-2"].sessions():
            # Early and late, so that every step of the conversation is reached; never getting through for
            # `reach_timeout_s` would be a host that is away, which is another matter.
            time.sleep(1.2 if cuts % 3 == 2 else dice.choice([0, 0.03, 0.08, 0.2, 0.4]))
            cuts += bool(machines["node-2"].sessions())
            machines["node-2"].cut()
        time.sleep(0.005)
    ended = sdk.job_end(api, job, 60)
    assert cuts >= 5, f"only {cuts} connections were there to be cut"
    assert ended.status.phase == "Success", ended.status.reason
    assert attempts_of(bed, "node-2", job) == ([1], [1])
    assert server.cli("get", "output", job, "node-2", "--attempt", "1").stdout.count("said\n") == 1
    assert schedulable(bed, "node-2")


SLOW = """#!/bin/sh
echo "begin {step} $EVENKEEL_JOB $EVENKEEL_ATTEMPT" >> /var/log/e2e-order
touch /run/at-{step}; sleep 1.5; rm /run/at-{step}
{then}
"""


@pytest.fixture
def recipe(server, bed):
    """Sets other commands for one test."""
    ssh = bed.facts["ssh"]

    def set_to(teardown, install, *more):
        server.cli("cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"], "--known-hosts",
                   bed.known_hosts(), "--recipe", "script", "--teardown", teardown, "--install", install, *more)

    yield set_to
    set_to(server.dir / "teardown.sh", server.dir / "install.sh")


def test_the_connection_is_cut_in_every_step(bed, server, api, cluster, pool, machines, recipe):
    """Once in each script, while it runs; the login and its proof are cut in the server's own tests, command by command."""
    files = {}
    for step, then in (("teardown", "/opt/testbed/teardown.sh"), ("install", "/opt/testbed/install.sh")):
        files[step] = server.dir / f"slow-{step}.sh"
        files[step].write_text(SLOW.format(step=step, then=then))
    recipe(files["teardown"], files["install"])
    pre, post = SLOW.format(step="pre", then=""), SLOW.format(step="post", then="")
    sdk.update_pool(api, cluster, pool, "workers", pre=pre, post=post, key="first", wait=True)
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)["node-5"]])
    machine = machines["node-5"]
    for step in ("teardown", "pre", "install", "post"):
        flag = pathlib.Path(f"/proc/{machine.init}/root/run/at-{step}")
        wait_for(f"the step {step}", flag.exists, 60 + beds.HELD, every=0.02)
        wait_for("a connection to cut", machine.sessions, 10, every=0.02)
        machine.cut()
        assert flag.exists(), f"{step} was over before its connection was cut"
    ended = sdk.job_end(api, job, 90)
    assert ended.status.phase == "Success", ended.status.reason
    ran = [line for line in (bed.file("node-5", "/var/log/e2e-order") or "").splitlines() if job in line]
    assert ran == [f"begin {step} {job} 1" for step in ("teardown", "pre", "install", "post")]
    assert schedulable(bed, "node-5")


def test_a_reboot_goes_on_where_the_recipe_says_so(bed, server, api, cluster, pool, machines, recipe):
    """The power fails in the install step: declared idempotent, it runs again in the same attempt; otherwise the attempt fails."""
    install = server.dir / "install-once-cut.sh"
    install.write_text(
        "#!/bin/sh\nset -e\necho \"install $EVENKEEL_JOB $EVENKEEL_ATTEMPT\" >> /var/log/e2e-order\n"
        "if mkdir /root/cut-$EVENKEEL_JOB 2>/dev/null; then sync; touch /run/in-install; sleep 300; fi\n"
        "/opt/testbed/install.sh\n"
    )
    for more in (["--resume"], []):
        recipe(server.dir / "teardown.sh", install, *more)
        sdk.update_pool(api, cluster, pool, "workers", pre=script(f"# {more}"), post="", key="first", wait=True)
        only = {"node_i_ds": [ids(api, cluster)["node-6"]], "retry_times": 0}
        job = sdk.upgrade(api, cluster, pool, 1, **only)
        machine = machines["node-6"]
        wait_for("the install step", lambda: pathlib.Path(f"/proc/{machine.init}/root/run/in-install").exists(), 60 + beds.HELD)
        machine.off()
        time.sleep(1)
        machine.on()
        ended = sdk.job_end(api, job, 120)
        ran = [line for line in (bed.file("node-6", "/var/log/e2e-order") or "").splitlines() if job in line]
        assert attempts_of(bed, "node-6", job) == ([1], [1]), more
        if more:
            assert ended.status.phase == "Success", ended.status.reason
            assert ran == [f"install {job} 1"] * 2
        else:
            assert ended.status.phase == "Failed" and ran == [f"install {job} 1"], ended.status.reason
            assert "the host was rebooted while it ran" in ended.status.reason, ended.status.reason
            recipe(server.dir / "teardown.sh", server.dir / "install.sh")
            ended = sdk.job_end(api, sdk.upgrade(api, cluster, pool, 1, **only), 120)
            assert ended.status.phase == "Success", ended.status.reason
        assert schedulable(bed, "node-6")


def test_the_controller_is_killed_thirty_times(bed, server, api, cluster, pool, figures):
    """Random moments, at most three runs; every second start brings another build of the host binary."""
    other = server.dir / "evenkeel-node-other"
    shutil.copy(beds.NODE_BINARY, other)
    with open(other, "ab") as file:
        file.write(b"\0another build")
    own, seed = beds.NODE_BINARY, random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice, kills, runs = random.Random(seed), 0, 0
    try:
        while kills < 30 and runs < 3:
            runs += 1
            body = f"# run {runs}\nsleep 1"
            sdk.update_pool(api, cluster, pool, "workers", pre=script(body), key="first", wait=True)
            job = sdk.upgrade(api, cluster, pool, MAX)
            phase = None
            while kills < 30 and phase not in ("Success", "Failed"):
                time.sleep(dice.uniform(0.05, 2.0))
                server.kill9()
                kills += 1
                beds.NODE_BINARY = str(other) if kills % 2 else own
                server.start()
                phase = sdk.show_job(api, job).status.phase
            ended = sdk.job_end(api, job, 120)
            assert ended.status.phase == "Success", f"seed {seed}: {ended.status.reason}"
            for node in bed.hosts:
                assert attempts_of(bed, node, job) == ([1], [1]), f"seed {seed}: {node}"
                assert schedulable(bed, node)
    finally:
        beds.NODE_BINARY = own
        server.kill9()
        server.start()
    figures["controller_kills"] = f"{kills} in {runs} runs"
    assert kills == 30, f"{kills} kills in {runs} runs"


def cordons(bed, node):
    """How often the audit log shows that a node was cordoned by the controller."""
    wanted = f'"requestURI":"/api/v1/nodes/{node}?fieldManager=evenkeel"'
    with open(bed.facts["audit_log"]) as log:
        events = [json.loads(line) for line in log if wanted in line]
    return sum((e.get("requestObject", {}).get("spec") or {}).get("unschedulable") is True for e in events)


def refused(bed, api, cluster, pool, node):
    """A run of one node that is given back before its cordon; its reason."""
    before = cordons(bed, node)
    # Signatures know whole seconds: the same request within one is a repeat, and gets the first one's job.
    time.sleep(1)
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)[node]], retry_times=0)
    ended = sdk.job_end(api, job, 60)
    assert ended.status.phase == "Failed"
    assert before > 0 and cordons(bed, node) == before, "it was cordoned"
    assert lines(bed, node, job) == [] and schedulable(bed, node)
    return ended.status.reason


def test_what_is_found_before_the_cordon(bed, server, api, cluster, pool, machines):
    """Wrong credential, another host key, a full disk: named, and the node is never touched."""
    sdk.update_pool(api, cluster, pool, "workers", pre=script("# before"), key="first", wait=True)
    machines["node-1"].enter("mv /root/.ssh/authorized_keys /root/.ssh/kept")
    reason = refused(bed, api, cluster, pool, "node-1")
    assert "refuses the controller's SSH key for user root" in reason, reason
    machines["node-1"].enter("mv /root/.ssh/kept /root/.ssh/authorized_keys")

    machines["node-2"].enter("mount -t tmpfs -o size=16m tmpfs /var/lib/evenkeel")
    reason = refused(bed, api, cluster, pool, "node-2")
    assert "MiB of disk are free" in reason, reason
    machines["node-2"].enter("mount -o remount,ro /var/lib/evenkeel")
    reason = refused(bed, api, cluster, pool, "node-2")
    assert "read-only" in reason or "cannot write" in reason, reason
    machines["node-2"].enter("umount /var/lib/evenkeel")

    keys = "/etc/ssh/ssh_host_ed25519_key"
    machines["node-3"].enter(f"mkdir /root/kept && cp -p {keys}* /root/kept && rm {keys}* && ssh-keygen -q -t ed25519 -N '' -f {keys}"
                             " && kill -HUP 1")
    reason = refused(bed, api, cluster, pool, "node-3")
    pinned = run("ssh-keygen", "-lf", "/dev/stdin", input=bed.hosts["node-3"]["host_key"]).stdout.split()[1]
    assert "shows another SSH host key" in reason and pinned in reason, reason
    machines["node-3"].enter("cp -p /root/kept/* /etc/ssh/ && kill -HUP 1")

    job = sdk.upgrade(api, cluster, pool, MAX, node_i_ds=[ids(api, cluster)[n] for n in ("node-1", "node-2", "node-3")])
    ended = sdk.job_end(api, job, 90)
    assert ended.status.phase == "Success", f"with the fault mended: {ended.status.reason}"


@pytest.fixture
def host_binary(server):
    """Another host binary for the server."""
    own = beds.NODE_BINARY

    def set_to(path):
        beds.NODE_BINARY = str(path)
        server.stop()
        server.start()

    yield set_to
    set_to(own)


def test_another_evenkeel_node(bed, server, api, cluster, pool, machines, host_binary):
    """One that does not fit is named before the cordon, one in the place of the server's own is replaced."""
    sdk.update_pool(api, cluster, pool, "workers", pre=script("# builds"), post="", key="first", wait=True)
    own = beds.NODE_BINARY
    host_binary(beds.NODE_FOREIGN)
    reason = refused(bed, api, cluster, pool, "node-1")
    assert "speaks protocol 99" in reason and "protocol 1;" in reason and "`node_binary`" in reason, reason
    host_binary(own)

    # What a newer one has left: an older one cannot know what it says.
    fence = "/var/lib/evenkeel/fence.json"
    machines["node-2"].enter(f"cp -p {fence} /root/fence && sed -i 's/\"format\":1,/\"format\":2,/' {fence}")
    reason = refused(bed, api, cluster, pool, "node-2")
    assert "a newer evenkeel-node has written it (format 2, this one knows 1)" in reason, reason
    machines["node-2"].enter(f"mv /root/fence {fence}")

    # An older build under the name of this one: whole files count, not names.
    name = hashlib.sha256(pathlib.Path(beds.NODE_BINARY).read_bytes()).hexdigest()
    path = f"/var/lib/evenkeel/bin/evenkeel-node-{name}"
    machines["node-2"].enter(f"[ -x {path} ] && head -c 4096 {path} > /root/cut && cat /root/cut > {path}")
    job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)["node-2"]], retry_times=0)
    ended = sdk.job_end(api, job, 90)
    assert ended.status.phase == "Success", ended.status.reason
    assert attempts_of(bed, "node-2", job) == ([1], [1])
    assert machines["node-2"].enter(f"sha256sum {path}").split()[0] == name


def renewed(bed, node):
    """How far the Node's Lease is from our own clock, in s."""
    at = bed.get("lease", node, "-n", "kube-node-lease")["spec"]["renewTime"]
    return datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() - time.time()


CLOCKS = [("ahead", 3600, "# ahead"), ("behind", -3600, "# behind"), ("set right in the middle", 3600, "echo 0 > /etc/testbed-clock")]


@pytest.mark.parametrize("what,offset,body", CLOCKS, ids=[row[0] for row in CLOCKS])
def test_the_clock_of_a_host_is_an_hour_off(bed, server, api, cluster, pool, machines, host_binary, what, offset, body):
    """For all its programs, evenkeel-node and what renews its Lease among them."""
    node, machine = "node-3", machines["node-3"]
    library = server.dir / "clock.so"
    run("cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "testbed/host/clock.c")
    shutil.copy(library, pathlib.Path(f"/proc/{machine.init}/root/usr/lib/testbed-clock.so"))
    machine.enter(f"echo {offset} > /etc/testbed-clock && echo /usr/lib/testbed-clock.so > /etc/ld.so.preload")
    host_binary(beds.NODE_DYNAMIC)
    try:
        assert abs(int(machine.enter("date +%s")) - time.time() - offset) < 60
        wait_for("the Lease to be renewed by that clock", lambda: abs(renewed(bed, node) - offset) < 60, 20)
        sdk.update_pool(api, cluster, pool, "workers", pre=script(body), post="", key="first", wait=True)
        begun = time.time()
        job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)[node]], retry_times=0)
        ended = sdk.job_end(api, job, 90)
        assert ended.status.phase == "Success", ended.status.reason
        assert attempts_of(bed, node, job) == ([1], [1])
        assert time.time() - begun < 60, "nothing waits for a clock"
        journal = next(line for name in pathlib.Path(bed.hosts[node]["files"]).glob(f"var/lib/evenkeel/orders/{job}.*/journal")
                       for line in name.read_text().splitlines() if "at_ms" in line)
        assert abs(json.loads(journal)["at_ms"] / 1000 - begun - offset) < 60, "the journal is kept by that clock"
        assert schedulable(bed, node)
        # The journal finds its order again whatever the clock says now.
        machine.enter("rm /etc/ld.so.preload /etc/testbed-clock")
        job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)[node]], retry_times=0)
        ended = sdk.job_end(api, job, 90)
        assert ended.status.phase == "Success", ended.status.reason
        assert attempts_of(bed, node, job) == ([1], [1])
    finally:
        machine.enter("rm -f /etc/ld.so.preload /etc/testbed-clock")


def test_two_controllers_give_orders_for_one_node(bed, server, api, cluster, pool):
    """A second installation of the server manages the same cluster. Scripts never overlap, and each job says how it ended."""
    second = Server(server.dir.parent / "second")
    shutil.rmtree(second.dir, ignore_errors=True)
    second.dir.mkdir()
    second.start()
    try:
        ssh = bed.facts["ssh"]
        second.cli("cluster", "add", "bed", "--kubeconfig", bed.facts["kubeconfigs"]["evenkeel"])
        second.cli(
            "cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"], "--known-hosts",
            bed.known_hosts(), "--recipe", "script", "--teardown", server.dir / "teardown.sh", "--install",
            server.dir / "install.sh",
        )
        second.cli("keypair", "import", "first", f"{ROOT / '.cache/e2e/keys/first'}.pub")
        their_api = sdk.client(second)
        their_cluster = json.loads(second.cli("cluster", "list", "-o", "json").stdout)
        their_cluster = re.search(r"[0-9a-f-]{36}", json.dumps(their_cluster)).group(0)
        their_pool = sdk.create_pool(their_api, their_cluster, "workers").metadata.uid
        listed = wait_for("all nodes in the second DefaultPool", lambda: (
            found if len(found := sdk.nodes(their_api, their_cluster)) == len(bed.hosts) else None), 30)
        sdk.migrate(their_api, their_cluster, their_pool, [n.metadata.uid for n in listed])
        for one, two, three in ((api, cluster, pool), (their_api, their_cluster, their_pool)):
            sdk.update_pool(one, two, three, "workers", pre=script("sleep 3"), key="first", wait=True)
        ours = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[ids(api, cluster)["node-4"]])
        wait_for("our script", lambda: lines(bed, "node-4", ours), 40 + beds.HELD)
        theirs = sdk.upgrade(their_api, their_cluster, their_pool, 1, node_i_ds=[ids(their_api, their_cluster)["node-4"]])
        ended = sdk.job_end(api, ours, 60)
        their_end = sdk.job_end(their_api, theirs, 90)
        assert ended.status.phase == "Success", ended.status.reason
        assert attempts_of(bed, "node-4", ours) == ([1], [1])
        theirs_ran = attempts_of(bed, "node-4", theirs)
        log = [l for l in (bed.file("node-4", STEPS) or "").splitlines() if ours in l or theirs in l]
        assert [l.split()[0] for l in log] == ["pre", "end"] * (len(log) // 2), log
        if their_end.status.phase == "Success":
            assert theirs_ran == ([1], [1])
        else:
            assert theirs_ran == ([], []) and "newer controller" in their_end.status.reason, their_end.status.reason
        assert schedulable(bed, "node-4"), their_end.status.reason
    finally:
        second.stop()


def test_a_restored_backup_is_obeyed_and_what_came_before_it_is_not(bed, server, api, cluster, pool, machines):
    sdk.update_pool(api, cluster, pool, "workers", pre=script("# backed up"), post="", key="first", wait=True)
    copy = server.dir / "copy.db"
    server.stop()
    run(beds.EVENKEEL, "backup", "--data-dir", server.dir / "data", copy, limit=60)
    server.start()
    only = {"node_i_ds": [ids(api, cluster)["node-8"]], "retry_times": 0}
    job = sdk.upgrade(api, cluster, pool, 1, **only)
    assert sdk.job_end(api, job, 90).status.phase == "Success", "a run that the backup does not know"
    restored = Server(server.dir.parent / "restored")
    shutil.rmtree(restored.dir)
    restored.dir.mkdir()
    run(beds.EVENKEEL, "restore", copy, "--data-dir", restored.dir / "data", limit=60)
    shutil.copy(server.dir / "key", restored.dir / "key")
    restored.credential = server.credential
    restored.start()
    try:
        their_api = sdk.client(restored)
        job = sdk.upgrade(their_api, cluster, pool, 1, **only)
        ended = sdk.job_end(their_api, job, 90)
        assert ended.status.phase == "Success", ended.status.reason
        assert attempts_of(bed, "node-8", job) == ([1], [1])
        # The old one still runs, and does not know that it is no longer wanted.
        reason = refused(bed, api, cluster, pool, "node-8")
        assert "has seen a newer controller" in reason, reason
        job = sdk.upgrade(their_api, cluster, pool, 1, **only)
        assert sdk.job_end(their_api, job, 90).status.phase == "Success", "after a refusal"
    finally:
        restored.stop()
        # What the message of a refusal names as the way out.
        machines["node-8"].enter("rm -f /var/lib/evenkeel/fence.json")
