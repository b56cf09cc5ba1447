//! `evenkeel demo`: a synchronization to look at, in one process and with nothing to install.
//!
//! Entry point: [`demo`]. The server, its actor, its Kubernetes client and its SSH client are those of
//! `evenkeel serve`; only the far ends of the wires, an API server and SSH hosts, are played. Everything is asked of
//! the server through its HTTP API, and what is reported at the end is what the played world has seen.
//!
//! Absent on purpose: any way around the API, and a result that the world does not confirm.

mod event;
mod follow;
mod setup;
mod stage;
mod view;
mod witness;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use evenkeel_cli::Exit;
use evenkeel_server::config::LogFormat;
use evenkeel_server::telemetry;
use tempfile::TempDir;

use event::{Event, Ready, Report, Start};
use follow::Ended;
use setup::Ids;
use stage::{Stage, TIME_SCALE};
use view::View;
use witness::Witness;

/// What a person sees of the demo's server with `-v`.
const LOG_FILTER: &str = "warn,evenkeel_server=debug,evenkeel_rehearse=debug,audit=info";

/// How long tasks that still run may take to end; they wait for nothing but each other.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `evenkeel demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Nodes of the played cluster
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=50))]
    nodes: u32,
    /// Most nodes out of service at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    max_unavailable: u16,
    /// Seed of the played cluster: the same one gives the same nodes, pods and budgets
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// Synchronize nothing: keep serving, and say how to get in
    #[arg(long)]
    stay: bool,
    /// Address and port of the server
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Show the server's log on standard error
    #[arg(short, long)]
    verbose: bool,
}

/// Runs the demo. The exit status is 0 only if the job succeeded and the world saw nothing wrong.
pub fn demo(args: &DemoArgs) -> ExitCode {
    if u32::from(args.max_unavailable) >= args.nodes {
        crate::say(&format!(
            "error: --max-unavailable {}: at least one of {} nodes has to stay for the pods; give a smaller number, \
             or more --nodes",
            args.max_unavailable, args.nodes
        ));
        return ExitCode::from(Exit::Usage as u8);
    }
    if args.verbose {
        telemetry::start(LogFormat::Text, Some(LOG_FILTER));
    }
    match in_a_directory(args) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(Exit::Failed as u8),
        Err(error) => crate::report(&error),
    }
}

/// Whoever read the output has gone, which needs no words.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The directory goes last: by then nothing runs that could write into it.
fn in_a_directory(args: &DemoArgs) -> anyhow::Result<Exit> {
    let directory = tempfile::Builder::new()
        .prefix("evenkeel-demo-")
        .tempdir()
        .context("no temporary directory can be made; TMPDIR says where")?;
    let runtime = crate::runtime()?;
    let done = runtime.block_on(until_stopped(args, &directory));
    runtime.shutdown_timeout(STOP_LIMIT);
    let path = directory.path().to_owned();
    let removed =
        directory.close().with_context(|| format!("{} cannot be removed", path.display()));
    let exit = done?;
    removed?;
    Ok(exit)
}

/// SIGTERM, ctrl-c and a closed terminal end the demo; they are the only way to end one that stays, so there that is
/// success.
async fn until_stopped(args: &DemoArgs, directory: &TempDir) -> anyhow::Result<Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stopped = if args.stay { Exit::Done } else { Exit::Failed };
    tokio::select! {
        done = run(args, directory) => done,
        _ = term.recv() => Ok(stopped),
        _ = interrupt.recv() => Ok(stopped),
        _ = hangup.recv() => Ok(stopped),
    }
}

async fn run(args: &DemoArgs, directory: &TempDir) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let mut view = View::choose(args.json, args.stay, args.verbose);
    let stage = Stage::set(args.nodes, args.seed, args.listen, directory.path()).await?;
    let witness = Witness::new(stage.rehearsal.world());
    if args.stay {
        return stay(&stage, &mut view).await;
    }
    view.tell(Event::Start(Start {
        seed: args.seed,
        nodes: witness.nodes(),
        max_unavailable: args.max_unavailable,
        time_scale: TIME_SCALE,
        workloads: witness.workloads(),
        budgets: witness.budgets(),
        pods: witness.pods(),
    }))?;
    let ids = setup::prepare(&stage, &mut view).await?;
    let asked = Instant::now();
    let job = setup::synchronize(&stage.client, &ids, args.max_unavailable, &mut view).await?;
    let mut ended = follow::to_the_end(&stage.client, &job, args.nodes, witness, &mut view).await?;
    ended.took = asked.elapsed();
    let report = judged(args, ended, began.elapsed());
    let exit = if report.status == event::SUCCESS { Exit::Done } else { Exit::Failed };
    view.tell(Event::Result(report))?;
    Ok(exit)
}

async fn stay(stage: &Stage, view: &mut View) -> anyhow::Result<Exit> {
    let Ids { cluster, pool } = setup::prepare(stage, &mut View::Silent).await?;
    let access = &stage.access;
    view.tell(Event::Ready(Ready {
        endpoint: access.endpoint.clone(),
        region: stage::REGION.to_owned(),
        ak: access.ak.clone(),
        sk: access.sk.clone(),
        project_id: access.project.clone(),
        cluster_id: cluster,
        nodepool_id: pool,
    }))?;
    // The signal that ends it is waited for by the caller.
    std::future::pending().await
}

/// Puts the server's verdict and the world's together: success is what both say.
fn judged(args: &DemoArgs, ended: Ended, total: Duration) -> Report {
    let Ended { took, succeeded, reason, nodes_ok, seen } = ended;
    let mut wrong = Vec::new();
    if !succeeded {
        wrong.push(reason);
    }
    if seen.max_out > usize::from(args.max_unavailable) {
        let limit = args.max_unavailable;
        wrong.push(format!("{} nodes were out at once, and at most {limit} may be", seen.max_out));
    }
    if seen.scripts_repeated > 0 {
        wrong.push(format!("{} scripts ran twice", seen.scripts_repeated));
    }
    if seen.scripts_run < seen.scripts_due {
        let (run, due) = (seen.scripts_run, seen.scripts_due);
        wrong.push(format!("{run} of {due} scripts ran"));
    }
    if !seen.left_out.is_empty() {
        wrong.push(format!("out of service at the end: {}", seen.left_out.join(", ")));
    }
    let status = if wrong.is_empty() { event::SUCCESS } else { event::FAILED };
    Report {
        status,
        reason: (!wrong.is_empty()).then(|| wrong.join("; ")),
        duration_ms: took.as_millis() as u64,
        total_ms: total.as_millis() as u64,
        time_scale: TIME_SCALE,
        nodes: args.nodes,
        nodes_ok,
        max_unavailable: args.max_unavailable,
        seen,
    }
}

#[cfg(test)]
mod tests {
    use super::event::Seen;
    use super::*;

    #[test]
    fn success_is_what_the_server_and_the_world_both_say() {
        let args = DemoArgs {
            nodes: 6,
            max_unavailable: 2,
            seed: 1,
            json: false,
            stay: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            verbose: false,
        };
        let judge = |succeeded, change: fn(&mut Seen)| {
            let mut seen = Seen { max_out: 2, scripts_run: 24, scripts_due: 24, ..Seen::default() };
            change(&mut seen);
            let ended = Ended {
                took: Duration::from_secs(1),
                succeeded,
                reason: "the server's words".to_owned(),
                nodes_ok: 6,
                seen,
            };
            let report = judged(&args, ended, Duration::from_secs(2));
            (report.status, report.reason.unwrap_or_default())
        };
        assert_eq!(judge(true, |_| {}), ("Success", String::new()));
        assert_eq!(judge(false, |_| {}), ("Failed", "the server's words".to_owned()));
        let wrongs: [(fn(&mut Seen), &str); 4] = [
            (|seen| seen.max_out = 3, "3 nodes were out at once"),
            (|seen| seen.scripts_repeated = 1, "1 scripts ran twice"),
            (|seen| seen.scripts_run = 23, "23 of 24 scripts ran"),
            (|seen| seen.left_out.push("node-1".to_owned()), "at the end: node-1"),
        ];
        for (wrong, why) in wrongs {
            let (status, reason) = judge(true, wrong);
            assert_eq!(status, "Failed");
            assert!(reason.contains(why), "{reason}");
        }
    }
}
