//! What is found out before a node is cordoned. Changes nothing but the presence of the host binary.

use super::brief::{ClearLogin, Reach};
use super::push::BinarySource;
use super::{link, order};
use crate::sync::ports::{Fault, Target};
use evenkeel_node::protocol::{Facts, PROTOCOL, ProbeRequest, STATE_DIR, Verb};

/// Room for journal, scripts and 4 MiB of output, and a margin for what the system writes meanwhile.
const FREE_DISK_MB: u64 = 64;

/// What the recipe and the template need of a host.
pub(super) struct Needs<'a> {
    pub(super) login: &'a ClearLogin,
    /// Commands, by name or absolute path.
    pub(super) commands: Vec<String>,
    /// Whether the version of its kubelet is asked for.
    pub(super) kubelet: bool,
    /// Where the recipe writes besides the state directory.
    pub(super) writes: &'a [&'a str],
    /// The epoch that orders will come with.
    pub(super) epoch: Option<u64>,
}

/// Reaches the host, compares its identity and looks for everything the recipe needs.
pub(super) async fn probe(
    reach: &Reach,
    binary: &BinarySource,
    target: &Target,
    needs: &Needs<'_>,
) -> Result<Facts, Fault> {
    let request = request(needs)?;
    // Names and flags: they always serialize.
    let json = serde_json::to_vec(&request).unwrap_or_default();
    let host = link::open(reach, binary).await?;
    let facts: Facts = host.verb(Verb::Probe, &json).await?;
    judge(host.peer(), target, needs.login, &facts)?;
    not_fenced(host.peer(), needs.epoch, &facts)?;
    not_missing(host.peer(), &request, &facts)?;
    host.close().await;
    Ok(facts)
}

/// The recipe's own needs, and what the template's login is set with.
fn request(needs: &Needs<'_>) -> Result<ProbeRequest, Fault> {
    let login = needs.login;
    let mut commands = needs.commands.clone();
    let own =
        [("chpasswd", login.password_hash.is_some()), ("passwd", login.remove_password.is_some())];
    commands.extend(own.iter().filter(|(_, used)| *used).map(|(name, _)| (*name).to_owned()));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/".contains(&b);
    for command in &commands {
        if command.is_empty() || command.starts_with('-') || !command.bytes().all(plain) {
            return Err(Fault::permanent(format!(
                "the recipe needs the command {command:?}, which is not a command name \
                 (letters, digits, '.', '_', '+', '-', '/')"
            )));
        }
    }
    let user = if login.is_wanted() { Some(order::login_user(&login.user)?) } else { None };
    let writes = needs.writes.iter().map(|&path| path.to_owned()).collect();
    Ok(ProbeRequest { user, commands, kubelet: needs.kubelet, writes })
}

fn not_missing(peer: &str, asked: &ProbeRequest, facts: &Facts) -> Result<(), Fault> {
    let found = |command: &String| facts.commands.get(command) == Some(&true);
    let missing: Vec<&str> =
        asked.commands.iter().filter(|c| !found(c)).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(Fault::permanent(format!(
            "host {peer} lacks the commands {}, which the reset needs; install them there, or correct \
             the recipe with `evenkeel cluster set-machines`",
            missing.join(", ")
        )));
    }
    if asked.kubelet && facts.kubelet.is_none() {
        return Err(Fault::permanent(format!(
            "host {peer}: `kubelet --version` says no version; install a kubelet there"
        )));
    }
    Ok(())
}

/// Everything that the facts alone decide.
fn judge(peer: &str, target: &Target, login: &ClearLogin, facts: &Facts) -> Result<(), Fault> {
    // Facts of another protocol may mean something else.
    if facts.protocol != PROTOCOL {
        return Err(Fault::permanent(format!(
            "host {peer}: evenkeel-node {} speaks protocol {}, this server ({}) protocol {PROTOCOL}; give the server \
             the evenkeel-node of its own version (`node_binary` in its configuration)",
            facts.version,
            facts.protocol,
            env!("CARGO_PKG_VERSION")
        )));
    }
    same_machine(peer, target, facts)?;
    if !facts.root {
        return Err(Fault::permanent(format!(
            "host {peer}: a reset needs root; use root, or sudo \
             (`evenkeel cluster set-machines --sudo`)"
        )));
    }
    if facts.free_disk_mb < FREE_DISK_MB {
        return Err(Fault::permanent(format!(
            "host {peer}: {} MiB of disk are free at {}, a reset needs {FREE_DISK_MB} MiB; make room there",
            facts.free_disk_mb, facts.free_disk_at
        )));
    }
    if facts.user_exists == Some(false) {
        return Err(Fault::permanent(format!(
            "host {peer}: the login user {} of the template does not exist there; create it, or \
             correct the template",
            login.user
        )));
    }
    Ok(())
}

/// A host that has seen a higher epoch refuses every order; after the drain would be too late to learn it.
fn not_fenced(peer: &str, epoch: Option<u64>, facts: &Facts) -> Result<(), Fault> {
    if epoch.is_none_or(|epoch| facts.epoch_seen <= epoch) {
        return Ok(());
    }
    Err(Fault::permanent(format!(
        "host {peer} has seen a newer controller (epoch {} there, {} here); let that one do it, or, if this \
         controller was set up anew and no other one is at work, remove {STATE_DIR}/fence.json there",
        facts.epoch_seen,
        epoch.unwrap_or_default()
    )))
}

fn same_machine(peer: &str, target: &Target, facts: &Facts) -> Result<(), Fault> {
    let wrong = |what: &str, expected: &str, seen: &str| {
        Err(Fault::permanent(format!(
            "host {peer} is the wrong machine: node {} has {what} {expected:?}, the host has \
             {seen:?}; nothing was run. Correct its address with `evenkeel cluster set-machines`",
            target.node
        )))
    };
    let Some(machine_id) = target.machine_id.as_deref().filter(|id| !id.trim().is_empty()) else {
        return Err(Fault::permanent(format!(
            "node {}: its status reports no machineID, so its machine cannot be told from another",
            target.node
        )));
    };
    if !machine_id.trim().eq_ignore_ascii_case(facts.machine_id.trim()) {
        return wrong("machine id", machine_id, &facts.machine_id);
    }
    // A host without DMI has none to compare.
    if let (Some(expected), Some(seen)) = (target.system_uuid.as_deref(), &facts.product_uuid)
        && !expected.is_empty()
        && !expected.eq_ignore_ascii_case(seen)
    {
        return wrong("system UUID", expected, seen);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn facts() -> Facts {
        serde_json::from_value(serde_json::json!({
            "protocol": PROTOCOL, "version": "1", "machine_id": "m1", "product_uuid": "ab-cd",
            "boot_id": "b", "hostname": "h", "root": true, "free_disk_mb": 100, "free_disk_at": "/d", "commands": {},
            "systemd": false, "epoch_seen": 0, "time_ms": 0
        }))
        .unwrap()
    }

    fn judged(change: impl Fn(&mut Facts, &mut Target)) -> String {
        let mut facts = facts();
        let mut target = Target {
            node_id: "n".into(),
            node: "node-1".into(),
            internal_ip: None,
            machine_id: Some("m1".into()),
            system_uuid: Some("AB-CD".into()),
        };
        change(&mut facts, &mut target);
        match judge("h:22", &target, &ClearLogin::default(), &facts) {
            Ok(()) => "ok".into(),
            Err(Fault::Permanent { what, .. }) => what,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn each_fact_has_its_own_words() {
        assert_eq!(judged(|_, _| ()), "ok");
        assert_eq!(judged(|f, _| f.product_uuid = None), "ok");
        assert_eq!(judged(|_, t| t.system_uuid = None), "ok");
        let cases: [(&str, fn(&mut Facts, &mut Target)); 7] = [
            ("wrong machine: node node-1 has machine id", |f, _| {
                f.machine_id = "m2".into();
            }),
            ("wrong machine: node node-1 has machine id", |f, _| {
                f.machine_id = String::new();
            }),
            ("has system UUID", |_, t| t.system_uuid = Some("ff".into())),
            ("reports no machineID", |_, t| t.machine_id = None),
            ("speaks protocol 99", |f, _| f.protocol = 99),
            ("needs root", |f, _| f.root = false),
            ("63 MiB of disk are free at /d", |f, _| f.free_disk_mb = 63),
        ];
        for (words, change) in cases {
            let said = judged(change);
            assert!(said.contains(words), "{said}");
        }
        assert!(judged(|f, _| f.user_exists = Some(false)).contains("does not exist"));
    }
}
