//! What is found out before a node is cordoned. Changes nothing but the presence of the host binary.

use super::brief::{ClearLogin, SshAccess};
use super::push::{self, NodeBinary};
use super::ssh::Session;
use super::{host::Host, order};
use crate::sync::ports::{Fault, Target};
use evenkeel_node::protocol::{Facts, PROTOCOL, STATE_DIR, Verb};
use std::time::Duration;

/// Room for journal, scripts and 4 MiB of output, and a margin for what the system writes meanwhile.
const FREE_DISK_MB: u64 = 64;

/// Printing a version takes no time; the rest is for a host that swaps.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Reaches the host, compares its identity and looks for everything the recipe needs.
pub(super) async fn over_ssh(
    access: &SshAccess,
    binary: &NodeBinary,
    target: &Target,
    login: &ClearLogin,
    needs: &[String],
    epoch: Option<u64>,
) -> Result<(), Fault> {
    let user = if login.is_wanted() { Some(order::login_user(&login.user)?) } else { None };
    let session = Session::connect(access).await?;
    let host = push::ensure(session, access.sudo, binary).await?;
    let facts: Facts = host.verb(Verb::Probe { user }, b"").await?;
    judge(host.peer(), target, login, &facts)?;
    not_fenced(host.peer(), epoch, &facts)?;
    let missing = missing_commands(&host, needs, login, &facts).await?;
    if !missing.is_empty() {
        return Err(Fault::permanent(format!(
            "host {} lacks the commands {}, which the reset needs; install them there, or correct \
             the recipe with `evenkeel cluster set-machines`",
            host.peer(),
            missing.join(", ")
        )));
    }
    host.close().await;
    Ok(())
}

/// `kubelet --version`, as `Kubernetes v1.36.3`.
pub(super) async fn kubelet_version(access: &SshAccess) -> Result<String, Fault> {
    let session = Session::connect(access).await?;
    let ended = session.exec("kubelet --version", b"", VERSION_LIMIT).await?;
    let text = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    session.close().await;
    if ended.status != 0 || text.is_empty() {
        return Err(Fault::permanent(format!(
            "host {}: `kubelet --version` ended with status {}; install a kubelet there",
            access.peer(),
            ended.status
        )));
    }
    Ok(text)
}

/// Everything that the facts alone decide.
fn judge(peer: &str, target: &Target, login: &ClearLogin, facts: &Facts) -> Result<(), Fault> {
    same_machine(peer, target, facts)?;
    if facts.protocol != PROTOCOL {
        return Err(Fault::permanent(format!(
            "host {peer}: evenkeel-node speaks protocol {}, this controller {PROTOCOL}; build both \
             from one version (`cargo xtask node-binary`)",
            facts.protocol
        )));
    }
    if !facts.root {
        return Err(Fault::permanent(format!(
            "host {peer}: a reset needs root; use root, or sudo \
             (`evenkeel cluster set-machines --sudo`)"
        )));
    }
    if facts.free_disk_mb < FREE_DISK_MB {
        return Err(Fault::permanent(format!(
            "host {peer}: {} MiB of disk are free, a reset needs {FREE_DISK_MB} MiB; make room there",
            facts.free_disk_mb
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
         controller was restored from a backup or set up anew and no other one is at work, remove \
         {STATE_DIR}/fence.json there",
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

/// The recipe's own needs, and what the template's login is set with. What the facts do not name is looked up.
async fn missing_commands(
    host: &Host,
    needs: &[String],
    login: &ClearLogin,
    facts: &Facts,
) -> Result<Vec<String>, Fault> {
    let mut wanted: Vec<&str> = needs.iter().map(String::as_str).collect();
    let own = [("chpasswd", login.password_hash.is_some()), ("passwd", login.remove_password)];
    wanted.extend(own.iter().filter(|(_, used)| *used).map(|(name, _)| *name));
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        wanted.into_iter().partition(|name| facts.commands.contains_key(*name));
    let mut missing: Vec<String> = known
        .into_iter()
        .filter(|name| facts.commands.get(*name) == Some(&false))
        .map(str::to_owned)
        .collect();
    missing.extend(host.missing(&unknown).await?);
    Ok(missing)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn facts() -> Facts {
        serde_json::from_value(serde_json::json!({
            "protocol": PROTOCOL, "version": "1", "machine_id": "m1", "product_uuid": "ab-cd",
            "boot_id": "b", "hostname": "h", "root": true, "free_disk_mb": 100, "commands": {},
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
            ("63 MiB of disk", |f, _| f.free_disk_mb = 63),
        ];
        for (words, change) in cases {
            let said = judged(change);
            assert!(said.contains(words), "{said}");
        }
        assert!(judged(|f, _| f.user_exists = Some(false)).contains("does not exist"));
    }
}
