//! Reinstalling a machine in the middle of a reset: the hook, the new host key, and the wait for the machine.
//!
//! Entry point: `Fleet::by_reimage`. The hook runs at most once per (job, node, attempt); only the key that it announces
//! for exactly this order is pinned, and nothing runs on the machine before it is. What is known survives the
//! controller (`reimages/` in the data directory), because the host's own journal is gone with its disk.
//! Absent: how a machine is reinstalled (the user's hook), and retries (the engine).

mod announced;
mod journal;

use super::brief::{Brief, Reach};
use super::command::{Commands, Run as Program, running};
use super::ssh::{self, transient};
use super::webhook::{self, Webhooks, now_ms, spent};
use super::{Fleet, link, order};
use crate::records::{Hook, Recipe, Reimage, Reinstalled};
use crate::sync::chain;
use crate::sync::ports::{Fault, HostOrder, HostState, Stage};
use announced::Announced;
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::{self, Facts, OrderId, ProbeRequest, Step, Verb};
use journal::{At, Journal};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// What people see while the hook runs, and where a failure of it is found.
const STEP: &str = "reimage";
/// Pause between looks for a machine that boots: its sshd is up within minutes, not milliseconds.
const LOOK: Duration = Duration::from_secs(1);

/// What is kept of reinstallations.
pub(super) struct Reimages {
    dir: PathBuf,
    programs: Commands,
    webhooks: Webhooks,
}

impl Reimages {
    pub(super) fn new(data_dir: &Path, allow_loopback: bool) -> Self {
        let dir = data_dir.join("reimages");
        Self {
            programs: Commands::new(dir.join("programs")),
            webhooks: Webhooks::new(dir.join("webhooks"), allow_loopback),
            dir,
        }
    }

    /// Removes what is kept of a job.
    pub(super) async fn forget(&self, job: &JobId) -> io::Result<()> {
        self.programs.forget(job).await?;
        self.webhooks.forget(job).await?;
        super::durable::forget(&self.dir, job).await
    }

    fn broken(&self, source: io::Error) -> Fault {
        let dir = self.dir.display();
        transient(format!("the journal of reinstallations {dir} cannot be used"), source)
    }
}

/// One order of a recipe with a hook.
struct Pass<'a> {
    fleet: &'a Fleet,
    order: &'a HostOrder,
    id: &'a OrderId,
    reimage: &'a Reimage,
    journal: Journal,
    progress: &'a mpsc::Sender<HostState>,
}

/// A reset whose machine is reinstalled in between.
impl Fleet {
    pub(super) async fn by_reimage(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        reimage: &Reimage,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let journal = Journal::new(&self.reimages.dir, id);
        let pass = Pass { fleet: self, order, id, reimage, journal, progress };
        let now = match pass.through(brief).await? {
            Ok(now) => now,
            Err(failed) => return Ok(failed),
        };
        let mut order = order.clone();
        now.into_target(&mut order.target);
        // Key and address are new.
        let brief = self.book.brief(&order.job, &order.target).await?;
        if let Recipe::Kubeadm(recipe) = &brief.recipe {
            return self.join_by_kubeadm(&order, id, &brief, recipe, progress).await;
        }
        let mut steps = order::steps(&brief, Stage::Reset)?;
        steps.retain(|step| !matches!(step, Step::Teardown(_)));
        self.run_steps(&order, id, &brief, steps, progress).await
    }
}

impl Pass<'_> {
    /// Goes on from where the journal stands, to the machine's new identity or a failure.
    async fn through(&self, brief: &Brief) -> Result<Result<Reinstalled, HostState>, Fault> {
        let all = &self.fleet.reimages;
        let load = || async { self.journal.load().await.map_err(|e| all.broken(e)) };
        if load().await?.is_none() {
            ssh_of(brief, self.order)?;
            self.let_go(brief).await?;
            self.is_ours(brief)?;
            self.store(At::Begun).await?;
        }
        loop {
            match load().await?.unwrap_or(At::Begun) {
                At::Begun => match self.call(brief).await? {
                    Ok(announced) => {
                        self.store(At::Announced { at_ms: now_ms(), announced }).await?;
                    }
                    Err(reason) => self.store(At::Failed { reason }).await?,
                },
                At::Announced { at_ms, announced } => {
                    let (key, address) = (&announced.host_key, announced.address.as_deref());
                    self.fleet.book.pin(self.order, key, address).await?;
                    self.store(At::Pinned { at_ms, announced }).await?;
                }
                At::Pinned { at_ms, announced } => match self.wait(at_ms, &announced).await? {
                    Ok(now) => {
                        self.fleet.book.came_back(self.order, &now).await?;
                        self.store(At::Back { now }).await?;
                    }
                    Err(reason) => self.store(At::Failed { reason }).await?,
                },
                At::Back { now } => return Ok(Ok(now)),
                At::Failed { reason } => {
                    return Ok(Err(HostState::Failed { step: STEP.into(), reason }));
                }
            }
        }
    }

    async fn store(&self, at: At) -> Result<(), Fault> {
        self.journal.store(&at).await.map_err(|e| self.fleet.reimages.broken(e))
    }

    /// Takes Kubernetes off the machine, so that its kubelet stops cleanly. A script that fails is no obstacle: its disk
    /// is about to be overwritten. A machine that is the wrong one, or cannot be told, is.
    async fn let_go(&self, brief: &Brief) -> Result<(), Fault> {
        // An earlier attempt may have left the disk half written.
        let begun_before = self.journal.any_before().map_err(|e| self.fleet.reimages.broken(e))?;
        if !self.reimage.teardown || begun_before {
            return Ok(());
        }
        let steps = match &brief.recipe {
            Recipe::Kubeadm(recipe) => vec![super::kubeadm_teardown(brief, recipe)],
            _ => {
                let mut steps = order::steps(brief, Stage::Reset)?;
                steps.retain(|step| matches!(step, Step::Teardown(_)));
                steps
            }
        };
        let id = order::id_at(self.order, protocol::Stage::Teardown)?;
        let ended = self.fleet.run_steps(self.order, &id, brief, steps, self.progress).await?;
        if let HostState::Failed { step, reason } = ended {
            tracing::warn!(
                node = %self.order.target.node, step, reason,
                "the teardown failed; the machine is reinstalled all the same"
            );
        }
        Ok(())
    }

    /// A controller that was replaced must not reinstall anything: no host is asked that could refuse it.
    fn is_ours(&self, brief: &Brief) -> Result<(), Fault> {
        if brief.epoch.is_none_or(|epoch| epoch == self.order.epoch) {
            return Ok(());
        }
        Err(Fault::transient(format!(
            "node {}: another controller holds the cluster, nothing is reinstalled",
            self.order.target.node
        )))
    }

    /// Calls the hook, or reads how it ended.
    async fn call(&self, brief: &Brief) -> Result<Result<Announced, String>, Fault> {
        let all = &self.fleet.reimages;
        let output = self.fleet.output.as_ref();
        let key = format!("{}.{}.{}.reimage", self.id.job(), self.id.node(), self.id.attempt());
        let (state, read) = match &self.reimage.hook {
            Hook::Program { argv } => {
                let run = Program {
                    id: self.id,
                    order: self.order,
                    brief,
                    argv,
                    limit_s: self.reimage.limit_s,
                    template: None,
                    step: STEP,
                    more_env: environment(brief),
                };
                let state = all.programs.run(&run, output, self.progress).await?;
                let said = all.programs.said(self.id).await.map_err(|e| all.broken(e))?;
                (state, announced::in_output(&said, &self.id.to_string()))
            }
            Hook::Webhook(hook) => {
                let work = webhook::Work {
                    id: self.id,
                    key: key.clone(),
                    hook,
                    limit_s: self.reimage.limit_s,
                    body: self.body(brief, &key),
                    step: STEP,
                };
                let ended = all.webhooks.run(&work, output, self.progress).await?;
                (ended.state, announced::in_document(ended.document.as_ref(), &key))
            }
        };
        if let HostState::Failed { reason, .. } = state {
            return Ok(Err(reason));
        }
        let access = brief.reach.as_ref().and_then(Reach::ssh);
        let before = access.and_then(|access| access.host_key.as_deref());
        Ok(read.and_then(|announced| announced.differs_from(before)))
    }

    fn body(&self, brief: &Brief, key: &str) -> Zeroizing<Vec<u8>> {
        let mut facts = webhook::facts(self.order, self.id, brief, false);
        facts["order"] = json!(key);
        facts["stage"] = json!(STEP);
        facts["wanted"] = json!(brief.template.image.clone().unwrap_or_default());
        let access = brief.reach.as_ref().and_then(Reach::ssh);
        facts["ssh"] = json!({
            "user": access.map(|access| access.user.as_str()),
            "public_key": access.map(|access| access.public_key.trim()),
        });
        Zeroizing::new(facts.to_string().into_bytes())
    }

    /// Waits until the machine answers with its new key and is fit for the rest of the recipe.
    async fn wait(
        &self,
        since_ms: i64,
        announced: &Announced,
    ) -> Result<Result<Reinstalled, String>, Fault> {
        let limit = Duration::from_secs(u64::from(self.reimage.return_limit_s));
        let (before, begun) = (spent(since_ms), Instant::now());
        let mut told = String::new();
        loop {
            // Read anew each time: a person may correct address, port or key while we wait.
            let brief = self.fleet.book.brief(&self.order.job, &self.order.target).await?;
            let reach = ssh_of(&brief, self.order)?;
            let last = match self.look(reach).await {
                Ok(facts) => return self.fit(&brief, &facts).await,
                Err(fault) => chain(&fault),
            };
            if before + begun.elapsed() >= limit {
                let print = ssh::fingerprint(&announced.host_key).unwrap_or_default();
                return Ok(Err(format!(
                    "the reinstalled machine did not come back with the announced host key {print} within {} s: {last}",
                    self.reimage.return_limit_s
                )));
            }
            if told != last {
                told.clone_from(&last);
                let step = format!("{STEP}, waiting for the machine: {last}");
                // Nobody may be listening any more; the outcome is still wanted.
                let _heard = self.progress.send(running(step)).await;
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self, reach: &Reach) -> Result<Facts, Fault> {
        let host = link::open(reach, &self.fleet.binary).await?;
        let nothing = ProbeRequest::default();
        // Names and flags: they always serialize.
        let json = serde_json::to_vec(&nothing).unwrap_or_default();
        let facts = host.verb(Verb::Probe, &json).await;
        host.close().await;
        facts
    }

    /// The machine's identity now, if the recipe can run there.
    async fn fit(
        &self,
        brief: &Brief,
        facts: &Facts,
    ) -> Result<Result<Reinstalled, String>, Fault> {
        let replaces: BTreeSet<String> =
            self.order.target.machine_id.iter().map(|id| id.as_ref().to_owned()).collect();
        let now = Reinstalled {
            machine_id: facts.machine_id.trim().to_owned(),
            system_uuid: facts.product_uuid.clone(),
            replaces,
        };
        if now.machine_id.is_empty() {
            return Ok(Err("the reinstalled machine has no /etc/machine-id".into()));
        }
        let mut target = self.order.target.clone();
        now.clone().into_target(&mut target);
        match self.fleet.fit(brief, &target).await {
            Ok(()) => Ok(Ok(now)),
            Err(fault @ Fault::Permanent { .. }) => Ok(Err(chain(&fault))),
            Err(other) => Err(other),
        }
    }
}

/// How the reinstalled machine is reached: a host key is announced, so it is SSH.
fn ssh_of<'a>(brief: &'a Brief, order: &HostOrder) -> Result<&'a Reach, Fault> {
    let reach = brief.reach.as_ref().filter(|reach| reach.ssh().is_some());
    reach.ok_or_else(|| {
        Fault::permanent(format!(
            "node {}: a machine that is reinstalled is reached over SSH, and the cluster has no SSH settings for it; \
             set them with `evenkeel cluster set-machines`",
            order.target.node
        ))
    })
}

/// What a program learns beside the facts that every command gets.
fn environment(brief: &Brief) -> BTreeMap<String, String> {
    let image = brief.template.image.clone().unwrap_or_default();
    let access = brief.reach.as_ref().and_then(Reach::ssh);
    [
        ("EVENKEEL_STAGE", Some(STEP.to_owned())),
        ("EVENKEEL_OS", image.os),
        ("EVENKEEL_IMAGE", image.image),
        ("EVENKEEL_RUNTIME", image.runtime),
        ("EVENKEEL_SSH_USER", access.map(|access| access.user.clone())),
        ("EVENKEEL_SSH_PUBLIC_KEY", access.map(|access| access.public_key.trim().to_owned())),
    ]
    .map(|(name, text)| (name.to_owned(), text.unwrap_or_default()))
    .into()
}
