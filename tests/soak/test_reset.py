"""What a reset costs beside its scripts: `cargo xtask bench reset`. The scripts do nothing; the same ones are sent by plain
ssh over one multiplexed connection to the same hosts, in turn."""

import json
import os
import statistics
import subprocess
import time

import sdk
from bed import ROOT, Bed, phase_times, run, wait_for
from test_many import served

HOSTS = 8
ROUNDS = 3
NOTHING = "#!/bin/sh\n:\n"
# In the order of the recipe: teardown, the login's files, pre-install, install, post-install.
LOGIN = "#!/bin/sh\nset -e\numask 077\ncp /root/.ssh/authorized_keys /root/.ssh/next\nsync /root/.ssh/next\nmv /root/.ssh/next /root/.ssh/authorized_keys\n"
COMMANDS = [NOTHING, LOGIN, NOTHING, NOTHING, NOTHING]
# The goal, and what a measurement on two busy cores may be off.
RATIO_MAX = 1.2


def plain(bed, node, directory):
    """Seconds for the same commands, with the connection that they share, and without it."""
    host, ssh = bed.hosts[node], bed.facts["ssh"]
    socket = directory / f"{node}.socket"
    base = [
        "ssh", "-o", f"UserKnownHostsFile={bed.known_hosts()}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
        "-o", f"ControlPath={socket}", "-o", "IdentitiesOnly=yes", "-i", ssh["private_key"], "-p", str(host["port"]),
    ]
    to = f"{ssh['user']}@{host['address']}"
    begun = time.monotonic()
    run(*base, "-o", "ControlMaster=yes", "-f", "-N", to, limit=20, stdin=subprocess.DEVNULL, env=dict(os.environ))
    opened = time.monotonic()
    for script in COMMANDS:
        run(*base, to, "sh -s", input=script, limit=20)
    ended = time.monotonic()
    run(*base, "-O", "exit", to, check=False, limit=20)
    return ended - begun, ended - opened


def test_what_a_reset_costs():
    bed = Bed(ROOT / ".cache/soak/reset-bed", HOSTS)
    server = None
    try:
        wait_for("all nodes to be Ready", bed.nodes_ready, 60)
        server = served(bed, "reset")
        ssh = bed.facts["ssh"]
        script = server.dir / "nothing.sh"
        script.write_text(NOTHING)
        server.cli(
            "cluster", "set-machines", "reset", "--user", ssh["user"], "--key", ssh["private_key"],
            "--known-hosts", bed.known_hosts(), "--recipe", "script", "--teardown", script, "--install", script,
        )
        key = server.dir / "first"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        server.cli("keypair", "import", "first", f"{key}.pub")
        api = sdk.client(server)
        cluster = api.list_clusters(sdk.cce.ListClustersRequest()).items[0].metadata.uid
        pool = sdk.create_pool(api, cluster, "reset").metadata.uid
        nodes = sdk.nodes(api, cluster)
        sdk.migrate(api, cluster, pool, [n.metadata.uid for n in nodes])
        sdk.update_pool(api, cluster, pool, "reset", pre=NOTHING, post=NOTHING, key="first", wait=True)
        ours, theirs, shared = [], [], []
        for _ in range(ROUNDS):
            # One at a time, as the plain loop does it.
            job = sdk.upgrade(api, cluster, pool, 1, node_i_ds=[n.metadata.uid for n in nodes])
            ended = sdk.job_end(api, job, 300)
            assert ended.status.phase == "Success", ended.status.reason
            for times in phase_times(server, job).values():
                ours.append(times["Resetting"] + times["PostInstall"])
            for node in bed.hosts:
                whole, without = plain(bed, node, server.dir)
                theirs.append(whole)
                shared.append(without)
        assert len(ours) == len(theirs) == HOSTS * ROUNDS
        ratio = statistics.median(ours) / statistics.median(theirs)
        figures = {
            "resets": len(ours), "ours_s": round(statistics.median(ours), 3), "plain_s": round(statistics.median(theirs), 3),
            "plain_without_connecting_s": round(statistics.median(shared), 3), "ratio": round(ratio, 2),
            "node_binary_bytes": os.stat(os.environ["EVENKEEL_NODE_BINARY"]).st_size,
        }
        print(f"\nfigures: {json.dumps(figures)}")
        assert ratio <= RATIO_MAX, figures
    finally:
        if server:
            server.stop()
        bed.down()
