"""The test bed, the server and the ways to look at them. Every wait has a limit and says what it waits for."""

import datetime
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVENKEEL = os.environ["EVENKEEL_BINARY"]
NODE_BINARY = os.environ["EVENKEEL_NODE_BINARY"]
# The same of another protocol, and one that uses the host's own C library; for the tests that need them.
NODE_FOREIGN = os.environ.get("EVENKEEL_NODE_FOREIGN")
NODE_DYNAMIC = os.environ.get("EVENKEEL_NODE_DYNAMIC")
XTASK = os.environ["EVENKEEL_XTASK"]


def run(*argv, limit=60, check=True, **kw):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=limit, **kw)
    if check and done.returncode != 0:
        raise AssertionError(f"{argv[0]} {argv[1:]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


# The API server may hold a budget for two minutes after an eviction that went well: the replacement of a StatefulSet's
# pod, under the same name, can be there before the disruption controller has seen the old one go. Waits for what
# comes after a drain allow for one such case.
HELD = 125


def wait_for(what, probe, limit, every=0.2):
    """Calls `probe` until it answers something true; at most `limit` seconds."""
    end = time.monotonic() + limit
    last = None
    while time.monotonic() < end:
        last = probe()
        if last:
            return last
        time.sleep(every)
    raise AssertionError(f"waited {limit} s for {what}; last answer: {last!r}")


class Bed:
    """A real control plane and SSH hosts."""

    def __init__(self, state, hosts=0, real=0):
        self.state = pathlib.Path(state)
        kind = ["--real-nodes", real] if real else ["--hosts", hosts] if hosts else ["--kwok"]
        self.facts = json.loads(
            run(XTASK, "testbed", "up", "--state-dir", self.state, *kind, limit=400, cwd=ROOT).stdout
        )
        self.hosts = {host["node"]: host for host in self.facts["real_nodes" if real else "hosts"]}

    def down(self):
        run(XTASK, "testbed", "down", "--state-dir", self.state, limit=120, cwd=ROOT)

    def kubectl(self, *args, stdin=None, check=True, limit=60):
        return run(
            self.facts["kubectl"], "--kubeconfig", self.facts["kubeconfigs"]["admin"], *args,
            input=stdin, check=check, limit=limit,
        ).stdout

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, *objects):
        for obj in objects:
            self.kubectl("apply", "-f", "-", stdin=json.dumps(obj))

    def nodes_ready(self):
        items = self.get("nodes")["items"]
        ready = [
            n for n in items
            if any(c["type"] == "Ready" and c["status"] == "True" for c in n.get("status", {}).get("conditions", []))
        ]
        return len(ready) == len(self.hosts)

    def audit(self, nodes):
        return json.loads(run(XTASK, "audit", self.facts["audit_log"], "--nodes", ",".join(nodes), cwd=ROOT).stdout)

    def file(self, node, path):
        """A file as it stands on a host, or None. Read from outside, not through the product."""
        full = pathlib.Path(self.hosts[node]["files"]) / path.lstrip("/")
        return full.read_text() if full.exists() else None

    def known_hosts(self):
        path = self.state / "known_hosts"
        lines = []
        for host in self.hosts.values():
            key = " ".join(host["host_key"].split()[:2])
            name = host["address"] if host["port"] == 22 else f"[{host['address']}]:{host['port']}"
            lines.append(f"{name} {key}\n")
        path.write_text("".join(lines))
        return path

    def ssh(self, node, **how):
        """One real login from outside; True if it worked."""
        return self.login(node, **how).returncode == 0

    def on(self, node, command, check=True):
        """What a command on the host says, over a login of the controller's."""
        done = self.login(node, key=self.facts["ssh"]["private_key"], command=command)
        assert done.returncode == 0 or not check, f"{node}: {command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def login(self, node, *, key=None, password=None, user="root", command="true"):
        host = self.hosts[node]
        options = [
            "-o", f"UserKnownHostsFile={self.known_hosts()}", "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=5", "-o", "NumberOfPasswordPrompts=1", "-p", str(host["port"]),
        ]
        env = dict(os.environ)
        if key:
            options += ["-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "PasswordAuthentication=no", "-o", "BatchMode=yes"]
        else:
            ask = self.state / "askpass"
            ask.write_text("#!/bin/sh\nprintf '%s\\n' \"$E2E_PASSWORD\"\n")
            ask.chmod(stat.S_IRWXU)
            env |= {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "E2E_PASSWORD": password}
            options += ["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password"]
        return run("ssh", *options, f"{user}@{host['address']}", command, env=env, check=False, limit=20, stdin=subprocess.DEVNULL)


class Server:
    """`evenkeel serve`, as its user starts it."""

    POLICY = """
[clusters]
allow_loopback = true
[policy]
settle_s = 2
requeue_pause_s = 2
retry_pause_s = 2
sick_after_s = 20
reach_timeout_s = 20
"""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.port = None
        # A directory with ca.pem, cert.pem and key.pem: then the server speaks TLS.
        self.tls = None
        self.config = self.dir / "config.toml"
        self.process = None
        self.credential = {}

    def start(self, **env):
        port = self.port or 0
        self.config.write_text(
            f'listen = "127.0.0.1:{port}"\ndata_dir = "{self.dir}/data"\nkey_file = "{self.dir}/key"\n'
            f'node_binary = "{NODE_BINARY}"\nregion = "e2e-1"\n{self.POLICY}'
            + (f'[tls]\ncert = "{self.tls}/cert.pem"\nkey = "{self.tls}/key.pem"\n' if self.tls else "")
        )
        self.log = open(self.dir / "server.log", "ab")
        offset = self.log.tell()
        self.out = open(self.dir / "server.out", "ab")
        self.process = subprocess.Popen(
            [EVENKEEL, "serve", "--config", str(self.config)], stdout=self.out, stderr=self.log,
            env=dict(os.environ) | env,
        )

        def listening():
            assert self.process.poll() is None, f"the server ended: {self.text()}"
            text = (self.dir / "server.log").read_bytes()[offset:].decode()
            found = re.search(r"serving.*?address=\S*?:(\d+)", strip_ansi(text))
            return found and int(found.group(1))

        self.port = wait_for("the server to listen", listening, 20)
        if not self.credential:
            text = (self.dir / "server.out").read_text()
            for label, key in [("project id", "project"), ("AK", "ak"), ("SK", "sk"), ("user", "user"), ("password", "password")]:
                self.credential[key] = re.search(rf"^\s*{label}\s+(\S+)$", text, re.M).group(1)

    def kill9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(15)

    def text(self):
        return (self.dir / "server.log").read_text(errors="replace")[-4000:]

    @property
    def endpoint(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def cli(self, *args, check=True, limit=120, stdin=None):
        env = dict(os.environ) | {
            "EVENKEEL_ENDPOINT": self.endpoint,
            "EVENKEEL_AK": self.credential["ak"],
            "EVENKEEL_SK": self.credential["sk"],
            "EVENKEEL_PROJECT_ID": self.credential["project"],
            "NO_COLOR": "1",
        } | ({"EVENKEEL_CA_CERT": f"{self.tls}/ca.pem"} if self.tls else {})
        return run(EVENKEEL, *args, env=env, check=check, limit=limit, input=stdin)

    def rss_mb(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0


def phase_times(server, job):
    """How long each node of a job was in each phase, in seconds, by the server's log: {node: {phase: seconds}}."""
    line = re.compile(r"^(\S+Z)\s.*node moves on .*job\.id=(\S+) node=(\S+) phase=\"(\w+)\"")
    last, spent = {}, {}
    for text in strip_ansi((server.dir / "server.log").read_text(errors="replace")).splitlines():
        found = line.match(text)
        if not found or found.group(2) != job:
            continue
        at = datetime.datetime.fromisoformat(found.group(1)).timestamp()
        node, phase = found.group(3), found.group(4)
        if node in last:
            before, since = last[node]
            times = spent.setdefault(node, {})
            times[before] = times.get(before, 0.0) + at - since
        last[node] = (phase, at)
    return spent


def strip_ansi(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def deployment(name, replicas, ready_after="1s", namespace="default"):
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {"testbed.evenkeel.io/ready-after": ready_after}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": "played"}],
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {"app": name}},
                    }],
                },
            },
        },
    }


def budget(name, **limit):
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}} | limit,
    }
