"""A pool with a node that the server cannot reach over SSH: its host asks through an agent. Orders outlive the agent and the server,
a revoked agent gets nothing."""

import json
import subprocess
import time

import pytest

import sdk
from bed import HELD, NODE_BINARY, NODE_FOREIGN, run, wait_for
from test_hosts import STEPS, Machine, attempts_of, schedulable, script


class Agent:
    """`evenkeel-node agent` in a test host's own namespaces."""

    def __init__(self, machine, server):
        self.machine, self.server = machine, server
        self.process = None

    def argv(self, script):
        return ["nsenter", "--target", str(self.machine.init), "--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/",
                "/bin/sh", "-c", script]

    def put(self, path, source):
        with open(source, "rb") as file:
            done = subprocess.run(self.argv(f"cat >{path} && chmod 0755 {path}"), stdin=file, timeout=60, env=self.env)
        assert done.returncode == 0, path

    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def enrol(self, token, check=True, binary=NODE_BINARY):
        self.put("/usr/local/bin/evenkeel-node", binary)
        self.put("/root/ca.pem", f"{self.server.tls}/ca.pem")
        command = f"evenkeel-node agent enrol {self.server.endpoint} /root/ca.pem"
        return run(*self.argv(f"PATH=/usr/local/bin:$PATH; {command}"), input=token + "\n", limit=60, env=self.env, check=check)

    def start(self):
        log = open(self.server.dir / "agent.log", "ab")
        self.process = subprocess.Popen(
            self.argv("echo $$ >/run/agent.pid; exec /usr/local/bin/evenkeel-node agent"), stdout=log, stderr=log,
            env=self.env,
        )

    def kill(self):
        if self.process:
            self.machine.enter("kill -9 $(cat /run/agent.pid)", check=False)
            self.process.wait(10)
            self.process = None

    def log(self):
        return (self.server.dir / "agent.log").read_text()


def certificates(directory):
    directory.mkdir(parents=True, exist_ok=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (directory / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for argv in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test-ca"],
        ["req", *key, "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=evenkeel"],
        ["x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext",
         "-out", "cert.pem"],
    ):
        run("openssl", *argv, cwd=directory)
    return directory


WAITS = script("i=0; while [ ! -e /run/go-on ] && [ $i -lt 600 ]; do i=$((i+1)); sleep 0.1; done")


@pytest.fixture
def tls(server, api, cluster, pool):
    """The same server with TLS, after the pool got a script that waits for a word."""
    sdk.update_pool(api, cluster, pool, "workers", pre=WAITS, post="", key="first", wait=True)
    server.stop()
    server.tls = certificates(server.dir / "tls")
    server.start()
    yield server
    server.stop()
    server.tls = None
    server.start()


def set_ssh(server, bed, *more):
    ssh = bed.facts["ssh"]
    server.cli("cluster", "set-machines", "bed", "--user", ssh["user"], "--key", ssh["private_key"],
               "--known-hosts", bed.known_hosts(), *more)


def test_a_node_out_of_reach_is_synchronized_through_its_agent(bed, server, tls, figures):
    far, near = sorted(bed.hosts)[:2]
    names = ids_by_cli(server)
    # Nothing listens there: over SSH it would be unreachable.
    set_ssh(server, bed, "--host", f"{far}=127.9.0.250:9")
    machine = Machine(bed, far)
    agent = Agent(machine, server)
    try:
        token = server.cli("agent", "enrol", far).stdout.strip()
        said = agent.enrol(token)
        assert f"enrolled as node {far} of cluster bed" in said.stdout
        assert agent.enrol(token, check=False).returncode != 0, "a token works once"
        agent.start()
        wait_for("the agent to be connected", lambda: "connected" in server.cli("agent", "list").stdout, 20)

        # One run over both ways; in its middle the agent is killed, and the server as well.
        for node in (far, near):
            Machine(bed, node).enter("rm -f /run/go-on")
        began = time.monotonic()
        started = server.cli("sync", "workers", "--node", far, "--node", near, "--max-unavailable", "2", "--output", "json")
        job = json.loads(started.stdout)["jobid"]
        wait_for("the script to run on the far host", lambda: attempts_of(bed, far, job)[0], 90 + HELD)
        agent.kill()
        server.kill9()
        server.start()
        agent.start()
        for node in (far, near):
            Machine(bed, node).enter("touch /run/go-on")
        done = server.cli("get", "job", job, "--watch", "--timeout", "180", limit=200)
        assert "Success" in done.stdout, done.stdout
        figures["agent_sync_s"] = round(time.monotonic() - began, 1)
        for node in (far, near):
            begun, ended = attempts_of(bed, node, job)
            assert len(begun) == len(ended) == 1, f"{node}: {begun} {ended}"
            assert schedulable(bed, node)
        assert names[far] in {n["nodeID"] for n in json.loads(server.cli("agent", "list", "--output", "json").stdout)["items"]}

        # Revoked: nobody answers for the node any more, and the job says so before anything is touched.
        server.cli("agent", "revoke", far)
        wait_for("the agent to be turned away", lambda: "unknown or revoked" in agent.log(), 10)
        before = len((bed.file(far, STEPS) or "").splitlines())
        failed = server.cli("sync", "workers", "--node", far, "--max-unavailable", "1", "--retry-times", "0", "--wait", "--timeout", "120",
                            check=False, limit=150)
        assert failed.returncode != 0
        assert "127.9.0.250:9" in failed.stdout + failed.stderr, failed.stdout + failed.stderr
        assert len((bed.file(far, STEPS) or "").splitlines()) == before
    finally:
        agent.kill()
        set_ssh(server, bed)


def test_an_agent_of_another_version_is_named_and_replaced(bed, server, tls):
    """Its protocol is not the server's: it gets no call, the job says why before the cordon, and a new binary is all it takes."""
    far = sorted(bed.hosts)[1]
    set_ssh(server, bed, "--host", f"{far}=127.9.0.250:9")
    machine = Machine(bed, far)
    agent = Agent(machine, server)
    machine.enter("touch /run/go-on")
    before = len((bed.file(far, STEPS) or "").splitlines())

    def sync():
        return server.cli("sync", "workers", "--node", far, "--max-unavailable", "1", "--retry-times", "0", "--wait", "--timeout", "120",
                          check=False, limit=150)

    try:
        agent.enrol(server.cli("agent", "enrol", far).stdout.strip(), binary=NODE_FOREIGN)
        agent.start()
        words = "speaks protocol 99, this server"
        wait_for("the agent to be told", lambda: words in agent.log(), 20)
        assert "refused: another version" in server.cli("agent", "list").stdout
        failed = sync()
        said = failed.stdout + failed.stderr
        assert failed.returncode != 0 and words in said and "restart its agent" in said, said
        assert len((bed.file(far, STEPS) or "").splitlines()) == before and schedulable(bed, far)
        agent.kill()
        agent.put("/usr/local/bin/evenkeel-node", NODE_BINARY)
        agent.start()
        wait_for("the agent to be connected", lambda: "connected" in server.cli("agent", "list").stdout, 20)
        done = sync()
        assert done.returncode == 0, done.stdout + done.stderr
        assert len((bed.file(far, STEPS) or "").splitlines()) > before
    finally:
        agent.kill()
        server.cli("agent", "revoke", far, check=False)
        set_ssh(server, bed)


def ids_by_cli(server):
    items = json.loads(server.cli("node", "list", "--output", "json").stdout)["items"]
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}
