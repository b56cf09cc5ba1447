//! The machines behind the nodes: what a reset does, over SSH, through an agent, or by the user's own command.
//!
//! Entry point: [`Fleet`], which implements the actor's port
//! [`Machines`](crate::sync::ports::Machines). What to do comes from a [`Book`]; what scripts print
//! goes to an [`OutputSink`]. Every order is keyed by (job, node, attempt, stage) and runs at most
//! once, because the host (or, for the `command` recipe, a journal beside the controller) remembers
//! it: a call that is repeated re-attaches.
//! Deliberately absent: which node is reset, when, and how often (the engine), and the store.

mod agent;
mod brief;
mod command;
mod durable;
mod follow;
mod given;
mod host;
mod kubeadm;
mod link;
mod order;
mod output;
pub mod password;
mod probe;
mod push;
mod reimage;
pub mod ssh;
mod tickets;
mod trust;
mod webhook;

pub use agent::AgentAccess;
pub use brief::{Book, Brief, ClearLogin, ClearTemplate, Reach, SshAccess};
pub use output::{FileOutput, Output, OutputKey, OutputSink, Part};
pub use push::{BinaryError, BinarySource, NodeBinary};

use crate::records::{Hook, Kubeadm, Recipe};
use crate::sync::ports::{Fault, HostOrder, HostState, Machines, Stage, Target};
use async_trait::async_trait;
use command::{Commands, Run as CommandRun};
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::{self, Facts, OrderId, Step};
use given::Given;
use reimage::Reimages;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tickets::Tickets;
use tokio::sync::mpsc;
use webhook::Webhooks;

/// Reaches machines and gives them orders.
pub struct Fleet {
    book: Arc<dyn Book>,
    output: Arc<dyn OutputSink>,
    binary: BinarySource,
    commands: Commands,
    webhooks: Webhooks,
    reimages: Reimages,
    given: Given,
    tickets: Tickets,
    allow_loopback: bool,
}

/// How hooks of the user may be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookOptions {
    /// Webhooks on this machine.
    pub allow_loopback: bool,
}

impl Fleet {
    /// `data_dir` holds the journals of the recipe `command` (`commands/`, `webhooks/`), of reinstallations (`reimages/`),
    /// which orders hosts have (`orders/`) and the tokens of joins (`tickets/`); it must survive a restart of the
    /// controller and must not be shared between two of them.
    pub fn new(
        book: Arc<dyn Book>,
        output: Arc<dyn OutputSink>,
        binary: BinarySource,
        data_dir: &Path,
        hooks: HookOptions,
    ) -> Self {
        let allow_loopback = hooks.allow_loopback;
        Self {
            book,
            output,
            binary,
            commands: Commands::new(data_dir.join("commands")),
            webhooks: Webhooks::new(data_dir.join("webhooks"), allow_loopback),
            reimages: Reimages::new(data_dir, allow_loopback),
            allow_loopback,
            given: Given::new(data_dir.join("orders")),
            tickets: Tickets::new(data_dir.join("tickets")),
        }
    }

    async fn on_host(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let steps = order::steps(brief, order.stage)?;
        self.run_steps(order, id, brief, steps, progress).await
    }

    async fn run_steps(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        steps: Vec<Step>,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        if steps.is_empty() {
            return Ok(HostState::Succeeded { ended_host_ms: None });
        }
        let Some(reach) = &brief.reach else {
            return Err(no_reach(&order.target));
        };
        let order = order::build(order, id, steps)?;
        let follower = follow::Follower {
            reach,
            binary: &self.binary,
            output: self.output.as_ref(),
            given: &self.given,
            progress,
        };
        let state = follower.run(&order).await?;
        match (&state, order::login(&order)) {
            (HostState::Succeeded { .. }, Some(login)) => {
                Ok(follow::prove(reach, &self.binary, login).await?.unwrap_or(state))
            }
            _ => Ok(state),
        }
    }

    /// Teardown, word to the API server, then login, pre-install and join with a token of its own.
    async fn by_kubeadm(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        recipe: &Kubeadm,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let first = order::id_at(order, protocol::Stage::Teardown)?;
        let steps = vec![kubeadm_teardown(brief, recipe)];
        match self.run_steps(order, &first, brief, steps, progress).await? {
            HostState::Succeeded { .. } => {}
            other => return Ok(other),
        }
        self.join_by_kubeadm(order, id, brief, recipe, progress).await
    }

    /// What follows once Kubernetes is off the machine.
    async fn join_by_kubeadm(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        recipe: &Kubeadm,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let limit_s = u64::from(recipe.limit_s);
        let Some(joiner) = &brief.joiner else {
            return Err(Fault::permanent("the recipe kubeadm has no API server to join"));
        };
        let node = &order.target.node;
        // Once a token is out the host may be joining: its kubelet is not to be called stopped again.
        if !self.tickets.any(id).await? {
            self.tickets.begun(id, joiner.as_ref()).await;
            joiner.kubelet_stopped(node, &brief.template.initialized).await?;
        }
        let limit = Duration::from_secs(limit_s);
        let ticket = self.tickets.of(id, joiner.as_ref(), node, limit).await?;
        let version = joiner.version().await?;
        let join = kubeadm::join(recipe, node, &ticket, &version, &brief.template.config);
        let mut steps = order::steps(brief, Stage::Reset)?;
        steps.push(Step::install(join.expose_secret(), limit_s));
        let ended = self.run_steps(order, id, brief, steps, progress).await;
        // Anything but an end leaves the host joining.
        if ended.is_ok() {
            self.tickets.ended(id, joiner.as_ref()).await;
        }
        ended
    }

    async fn by_command(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        hook: &Hook,
        limit_s: u32,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let reached = brief.reach.is_some();
        if order.stage == Stage::Post && (reached || brief.template.post_install_b64.is_none()) {
            return self.on_host(order, id, brief, progress).await;
        }
        let state = self.by_hook(order, id, brief, hook, limit_s, progress).await?;
        match state {
            HostState::Succeeded { .. } if reached => {
                match self.on_host(order, id, brief, progress).await? {
                    // The command ended last but for login and pre-install; without those the
                    // controller's own clock is the only one.
                    HostState::Succeeded { ended_host_ms: None } => Ok(state),
                    other => Ok(other),
                }
            }
            other => Ok(other),
        }
    }
}

/// What the recipe `command` calls.
impl Fleet {
    async fn by_hook(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        hook: &Hook,
        limit_s: u32,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        // Where the host is not reached nobody else can apply the template: the hook gets it.
        let template = brief.reach.is_none().then_some(&brief.template);
        match hook {
            Hook::Program { argv } => {
                let run = CommandRun {
                    id,
                    order,
                    argv,
                    limit_s,
                    brief,
                    template,
                    step: "command",
                    more_env: BTreeMap::new(),
                };
                self.commands.run(&run, self.output.as_ref(), progress).await
            }
            Hook::Webhook(hook) => {
                let facts = webhook::facts(order, id, brief, template.is_some());
                let work = webhook::Work {
                    id,
                    key: id.to_string(),
                    hook,
                    limit_s,
                    body: facts.to_string().into_bytes().into(),
                    step: "webhook",
                };
                let ended = self.webhooks.run(&work, self.output.as_ref(), progress).await?;
                Ok(ended.state)
            }
        }
    }

    fn check_hook(&self, hook: &Hook) -> Result<(), Fault> {
        match hook {
            Hook::Program { argv } => command::check_executable(argv),
            Hook::Webhook(hook) => webhook::check(hook, self.allow_loopback),
        }
    }

    /// Whether the recipe can run on the machine; the hooks of the controller's side are not looked at.
    async fn fit(&self, brief: &Brief, target: &Target) -> Result<(), Fault> {
        let needs: &[String] = match &brief.recipe {
            Recipe::None => return Ok(()),
            Recipe::Command { .. } => &[],
            Recipe::Script { needs, .. } => needs,
            Recipe::Kubeadm(_) => return self.probe_kubeadm(brief, target).await,
        };
        if brief.reach.is_none() && matches!(brief.recipe, Recipe::Command { .. }) {
            return Ok(());
        }
        self.look(brief, target, needs.to_vec(), None).await.map(drop)
    }

    async fn probe_kubeadm(&self, brief: &Brief, target: &Target) -> Result<(), Fault> {
        let needs: Vec<String> = kubeadm::NEEDS.iter().map(|&n| n.to_owned()).collect();
        let facts = self.look(brief, target, needs, Some(kubeadm::WRITES)).await?;
        let kubelet = facts.kubelet.unwrap_or_default();
        let Some(joiner) = &brief.joiner else {
            return Err(Fault::permanent("the recipe kubeadm has no API server to join"));
        };
        let server = joiner.version().await?;
        kubeadm::skew(&kubelet, &server)
            .map_err(|why| Fault::permanent(format!("node {}: {why}", target.node)))
    }

    async fn look(
        &self,
        brief: &Brief,
        target: &Target,
        commands: Vec<String>,
        kubelet_writes: Option<&[&str]>,
    ) -> Result<Facts, Fault> {
        let Some(reach) = &brief.reach else {
            return Err(no_reach(target));
        };
        let login = &brief.template.login;
        let (kubelet, writes) = (kubelet_writes.is_some(), kubelet_writes.unwrap_or_default());
        let needs = probe::Needs { login, commands, kubelet, writes, epoch: brief.epoch };
        probe::probe(reach, &self.binary, target, &needs).await
    }
}

fn kubeadm_teardown(brief: &Brief, recipe: &Kubeadm) -> Step {
    let script = kubeadm::teardown(recipe, brief.template.retain_volumes);
    // `kubeadm reset` and the deletions after it find less to do the second time.
    Step::teardown(script, u64::from(recipe.limit_s)).resuming(true)
}

/// The machine that a node's status names, or the one that it has become since.
fn as_it_is_now<'a>(target: &'a Target, brief: &Brief) -> std::borrow::Cow<'a, Target> {
    match brief.reinstalled.as_ref().filter(|now| now.stands_for(target)) {
        Some(now) => {
            let mut target = target.clone();
            now.clone().into_target(&mut target);
            std::borrow::Cow::Owned(target)
        }
        None => std::borrow::Cow::Borrowed(target),
    }
}

#[async_trait]
impl Machines for Fleet {
    async fn probe(&self, job: &JobId, target: &Target) -> Result<(), Fault> {
        let brief = self.book.brief(job, target).await?;
        if let Recipe::Command { hook, .. } = &brief.recipe {
            self.check_hook(hook)?;
        }
        if let Some(reimage) = brief.recipe.reimage() {
            if matches!(brief.reach, Some(Reach::Agent(_))) {
                return Err(Fault::permanent(format!(
                    "node {}: its agent would not survive that its machine is reinstalled; revoke it with `evenkeel \
                     agent revoke {0}` and let the node be reached over SSH, or take the hook out of the recipe",
                    target.node
                )));
            }
            self.check_hook(&reimage.hook)?;
        }
        self.fit(&brief, &as_it_is_now(target, &brief)).await
    }

    async fn run(
        &self,
        order: &HostOrder,
        progress: mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let id = order::id(order)?;
        let brief = self.book.brief(&order.job, &order.target).await?;
        let mut order = order.clone();
        order.target = as_it_is_now(&order.target, &brief).into_owned();
        if let Some(reimage) = brief.recipe.reimage().filter(|_| order.stage == Stage::Reset) {
            return self.by_reimage(&order, &id, &brief, reimage, &progress).await;
        }
        match &brief.recipe {
            Recipe::None => Ok(HostState::Succeeded { ended_host_ms: None }),
            Recipe::Script { .. } => self.on_host(&order, &id, &brief, &progress).await,
            Recipe::Kubeadm(recipe) if order.stage == Stage::Reset => {
                self.by_kubeadm(&order, &id, &brief, recipe, &progress).await
            }
            Recipe::Kubeadm(_) => self.on_host(&order, &id, &brief, &progress).await,
            Recipe::Command { hook, limit_s } => {
                self.by_command(&order, &id, &brief, hook, *limit_s, &progress).await
            }
        }
    }

    async fn forget(&self, job: &JobId) -> Result<(), Fault> {
        let forget = async {
            self.output.forget(job).await?;
            self.given.forget(job).await?;
            self.tickets.forget(job).await?;
            self.webhooks.forget(job).await?;
            self.reimages.forget(job).await?;
            self.commands.forget(job).await
        };
        forget.await.map_err(|source: std::io::Error| {
            ssh::transient(format!("the files of job {job} cannot be removed"), source)
        })
    }
}

fn no_reach(target: &Target) -> Fault {
    Fault::permanent(format!(
        "node {}: nothing says how its machine is reached; set SSH with `evenkeel cluster set-machines`, or enrol an \
         agent with `evenkeel agent enrol`",
        target.node
    ))
}
