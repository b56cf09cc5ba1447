//! The machines behind the nodes: what a reset does, over SSH or by the user's own command.
//!
//! Entry point: [`Fleet`], which implements the actor's port
//! [`Machines`](crate::sync::ports::Machines). What to do comes from a [`Book`]; what scripts print
//! goes to an [`OutputSink`]. Every order is keyed by (job, node, attempt, stage) and runs at most
//! once, because the host (or, for the `command` recipe, a journal beside the controller) remembers
//! it: a call that is repeated re-attaches.
//! Deliberately absent: which node is reset, when, and how often (the engine), and the store.

mod brief;
mod command;
mod follow;
mod given;
mod host;
mod kubeadm;
mod order;
mod output;
pub mod password;
mod probe;
mod push;
pub mod ssh;

pub use brief::{Book, Brief, ClearLogin, ClearTemplate, SshAccess};
pub use output::{FileOutput, Output, OutputKey, OutputSink};
pub use push::{BinaryError, BinarySource, NodeBinary};

use crate::records::Recipe;
use crate::sync::ports::{Fault, HostOrder, HostState, Machines, Stage, Target};
use async_trait::async_trait;
use command::{Commands, Run as CommandRun};
use evenkeel_engine::ids::JobId;
use evenkeel_node::protocol::{self, OrderId, Step};
use given::Given;
use secrecy::ExposeSecret;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A bootstrap token outlives the join's own limit by the time that login and pre-install may take (15 min).
const TOKEN_MARGIN: Duration = Duration::from_mins(20);

/// Reaches machines and gives them orders.
pub struct Fleet {
    book: Arc<dyn Book>,
    output: Arc<dyn OutputSink>,
    binary: BinarySource,
    commands: Commands,
    given: Given,
}

impl Fleet {
    /// `data_dir` holds the journal of the `command` recipe (`commands/`) and which orders hosts have (`orders/`); it must survive a restart of the
    /// controller and must not be shared between two of them.
    pub fn new(
        book: Arc<dyn Book>,
        output: Arc<dyn OutputSink>,
        binary: BinarySource,
        data_dir: &Path,
    ) -> Self {
        Self {
            book,
            output,
            binary,
            commands: Commands::new(data_dir.join("commands")),
            given: Given::new(data_dir.join("orders")),
        }
    }

    /// Removes what is kept of a job: outputs, the journal of commands, which orders hosts had. For jobs that have ended and are
    /// removed from the store.
    pub async fn forget(&self, job: &JobId) -> std::io::Result<()> {
        self.output.forget(job).await?;
        self.given.forget(job).await?;
        self.commands.forget(job).await
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
        let Some(access) = &brief.ssh else {
            return Err(no_ssh(&order.target));
        };
        let order = order::build(order, id, steps)?;
        let binary = self.binary.get().await?;
        let follower = follow::Follower {
            access,
            binary: &binary,
            output: self.output.as_ref(),
            given: &self.given,
            progress,
        };
        let state = follower.run(&order).await?;
        match (&state, order::login(&order)) {
            (HostState::Succeeded { .. }, Some(login)) => {
                Ok(follow::prove(access, &binary, login).await?.unwrap_or(state))
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
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let (settings, limit_s) = kubeadm_settings(&brief.recipe);
        let Some(joiner) = &brief.joiner else {
            return Err(Fault::permanent("the recipe kubeadm has no API server to join"));
        };
        let first = order::id_at(order, protocol::Stage::Teardown)?;
        let teardown = kubeadm::teardown(settings, brief.template.retain_volumes);
        let steps = vec![Step::teardown(teardown, limit_s)];
        match self.run_steps(order, &first, brief, steps, progress).await? {
            HostState::Succeeded { .. } => {}
            other => return Ok(other),
        }
        let node = &order.target.node;
        joiner.kubelet_stopped(node).await?;
        let life = Duration::from_secs(limit_s) + TOKEN_MARGIN;
        let ticket = joiner.ticket(node, life).await?;
        let version = joiner.version().await?;
        let join = kubeadm::join(settings, node, &ticket, &version, &brief.template.kubelet);
        let mut steps = order::steps(brief, Stage::Reset)?;
        steps.push(Step::install(join.expose_secret(), limit_s));
        let ended = self.run_steps(order, id, brief, steps, progress).await;
        if let Err(fault) = joiner.withdraw(&ticket.token_id).await {
            let reason = crate::sync::chain(&fault);
            tracing::warn!(node = %node, reason, "a bootstrap token was left to expire by itself");
        }
        ended
    }

    async fn by_command(
        &self,
        order: &HostOrder,
        id: &OrderId,
        brief: &Brief,
        argv: &[String],
        limit_s: u32,
        progress: &mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let over_ssh = brief.ssh.is_some();
        if order.stage == Stage::Post && (over_ssh || brief.template.post_install_b64.is_none()) {
            return self.on_host(order, id, brief, progress).await;
        }
        let run = CommandRun {
            id,
            order,
            argv,
            limit_s,
            brief,
            // Without SSH nobody else can apply the template: the command gets it.
            template: (!over_ssh).then_some(&brief.template),
        };
        let state = self.commands.run(&run, self.output.as_ref(), progress).await?;
        match state {
            HostState::Succeeded { .. } if over_ssh => {
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

impl Fleet {
    async fn probe_kubeadm(&self, brief: &Brief, target: &Target) -> Result<(), Fault> {
        let Some(access) = &brief.ssh else {
            return Err(no_ssh(target));
        };
        let binary = self.binary.get().await?;
        let needs: Vec<String> = kubeadm::NEEDS.iter().map(|&n| n.to_owned()).collect();
        let login = &brief.template.login;
        probe::over_ssh(access, &binary, target, login, &needs, brief.epoch).await?;
        let kubelet = probe::kubelet_version(access).await?;
        let Some(joiner) = &brief.joiner else {
            return Err(Fault::permanent("the recipe kubeadm has no API server to join"));
        };
        let server = joiner.version().await?;
        kubeadm::skew(&kubelet, &server)
            .map_err(|why| Fault::permanent(format!("host {}: {why}", access.peer())))
    }
}

fn kubeadm_settings(recipe: &Recipe) -> (kubeadm::Settings<'_>, u64) {
    match recipe {
        Recipe::Kubeadm { limit_s, endpoint, cri_socket, ignore_preflight, data_dirs } => (
            kubeadm::Settings {
                endpoint: endpoint.as_deref(),
                cri_socket: cri_socket.as_deref(),
                ignore_preflight,
                data_dirs,
            },
            u64::from(*limit_s),
        ),
        Recipe::Script { .. } | Recipe::Command { .. } | Recipe::None => (
            kubeadm::Settings {
                endpoint: None,
                cri_socket: None,
                ignore_preflight: &[],
                data_dirs: &[],
            },
            0,
        ),
    }
}

#[async_trait]
impl Machines for Fleet {
    async fn probe(&self, job: &JobId, target: &Target) -> Result<(), Fault> {
        let brief = self.book.brief(job, target).await?;
        let needs: &[String] = match &brief.recipe {
            Recipe::None => return Ok(()),
            Recipe::Command { argv, .. } => {
                command::check_executable(argv)?;
                &[]
            }
            Recipe::Script { needs, .. } => needs,
            Recipe::Kubeadm { .. } => return self.probe_kubeadm(&brief, target).await,
        };
        match (&brief.recipe, &brief.ssh) {
            (_, Some(access)) => {
                let binary = self.binary.get().await?;
                let login = &brief.template.login;
                probe::over_ssh(access, &binary, target, login, needs, brief.epoch).await
            }
            (Recipe::Script { .. } | Recipe::Kubeadm { .. }, None) => Err(no_ssh(target)),
            (_, None) => Ok(()),
        }
    }

    async fn run(
        &self,
        order: &HostOrder,
        progress: mpsc::Sender<HostState>,
    ) -> Result<HostState, Fault> {
        let id = order::id(order)?;
        let brief = self.book.brief(&order.job, &order.target).await?;
        match &brief.recipe {
            Recipe::None => Ok(HostState::Succeeded { ended_host_ms: None }),
            Recipe::Script { .. } => self.on_host(order, &id, &brief, &progress).await,
            Recipe::Kubeadm { .. } if order.stage == Stage::Reset => {
                self.by_kubeadm(order, &id, &brief, &progress).await
            }
            Recipe::Kubeadm { .. } => self.on_host(order, &id, &brief, &progress).await,
            Recipe::Command { argv, limit_s } => {
                self.by_command(order, &id, &brief, argv, *limit_s, &progress).await
            }
        }
    }
}

fn no_ssh(target: &Target) -> Fault {
    Fault::permanent(format!(
        "node {}: the cluster has no SSH settings; set them with `evenkeel cluster set-machines`",
        target.node
    ))
}
