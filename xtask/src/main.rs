//! `cargo xtask`: the command line of the project's own tools.
#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use xtask::{audit, bench, binaries, gobuild, mutants, paths, python, suite, testbed, tidy};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tools of the Evenkeel workspace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the rules that no compiler checks.
    Tidy,
    /// Run all tests, or one group of them.
    Test {
        #[arg(long)]
        only: Option<suite::Group>,
    },
    /// Play many seeds of the simulator, for hours if need be.
    Soak {
        #[arg(long, default_value_t = 20_000)]
        seeds: u32,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        first: u32,
        /// Instead of seeds: look for the smallest failing part of this one.
        #[arg(long, value_name = "SEED", conflicts_with = "hosts")]
        minimize: Option<u32>,
        /// Instead of seeds: fifty real hosts at once, and a thousand idle nodes.
        #[arg(long)]
        hosts: bool,
    },
    /// Measure; see docs/benchmarks.md.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Plant defects in a copy of the workspace and demand that the suite finds each.
    Mutants {
        /// Only this one, by name.
        #[arg(long)]
        only: Option<String>,
    },
    /// A real control plane with real SSH hosts on loopback.
    #[command(subcommand)]
    Testbed(TestbedCommand),
    /// Build what the test bed needs into the cache.
    Build,
    /// Build the static host binary and print its path.
    NodeBinary,
    /// Make the Python environment of the SDK tests and print its interpreter.
    Python,
    /// Judge a kube-apiserver audit log; prints the report as JSON.
    Audit {
        file: PathBuf,
        /// Nodes to look at, comma-separated; all when absent.
        #[arg(long, value_delimiter = ',')]
        nodes: Vec<String>,
    },
}

#[derive(Subcommand)]
enum BenchCommand {
    /// What a pool of many nodes costs: preview, decisions, memory.
    Plan {
        /// Numbers of nodes, each with 30 pods.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
        nodes: Vec<u32>,
    },
    /// What a reset costs beside its scripts, against plain ssh; on real hosts.
    Reset,
    /// How long a rollout takes, against its lower bound and against how others order it.
    Rollout {
        /// With the real engine on virtual time.
        #[arg(long, required_unless_present = "kwok", conflicts_with = "kwok")]
        sim: bool,
        /// With the real server on a real API server whose nodes and pods are played, beside a loop
        /// of `kubectl drain`.
        #[arg(long)]
        kwok: bool,
        #[arg(long, default_value_t = 10)]
        seeds: u32,
        /// Random lists that look for a better schedule.
        #[arg(long, default_value_t = 10_000)]
        restarts: u32,
        /// --kwok: nodes of the cluster.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        /// --kwok: the median of so many is shown.
        #[arg(long, default_value_t = 3)]
        runs: u32,
        /// --kwok: seconds that a minute takes. The loop's own pauses are not shortened, so small
        /// ones flatter us.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
        minute: u64,
        /// --kwok: whether budgets refuse anything; both when absent.
        #[arg(long, value_enum)]
        budgets: Option<bench::kwok::Setting>,
        /// --kwok: both sides at the same time, on clusters of their own; half the time.
        #[arg(long)]
        side_by_side: bool,
    },
}

#[derive(Subcommand)]
enum TestbedCommand {
    /// Start it; prints a JSON description.
    Up {
        #[arg(long)]
        state_dir: Option<PathBuf>,
        /// SSH hosts, each paired with a Node.
        #[arg(long, default_value_t = 0)]
        hosts: u8,
        /// Real nodes instead: systemd, containerd and kubelet on each, joined by kubeadm. They
        /// answer at 127.9.1.N, see `real_nodes` in the answer.
        #[arg(long, conflicts_with_all = ["hosts", "kwok"], num_args = 0..=1, default_value_t = 0,
              default_missing_value = "3")]
        real_nodes: u8,
        /// Play pods (and nodes without a host) with KWOK; implied by --hosts.
        #[arg(long)]
        kwok: bool,
        /// Leave the hosts' Nodes to the caller instead of running the install step.
        #[arg(long)]
        no_join: bool,
        /// First three parts of the hosts' addresses.
        #[arg(long, default_value = testbed::DEFAULT_HOST_NET)]
        host_net: String,
        /// First three parts of the addresses at which real nodes answer.
        #[arg(long, default_value = testbed::DEFAULT_REAL_NET)]
        real_net: String,
        #[arg(long, default_value_t = 22)]
        ssh_port: u16,
        /// Manifest with the ClusterRole `evenkeel`; the shipped one when absent.
        #[arg(long)]
        evenkeel_role: Option<PathBuf>,
    },
    /// Put a fresh join token on every real node (`/opt/testbed/join.sh`); it lasts an hour.
    Token {
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
    /// Stop everything and wait until it is gone.
    Down {
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
    /// Say what runs; exit status 1 unless all of it does.
    Status {
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            xtask::run::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    let good = match command {
        Command::Tidy => {
            let findings = tidy::check(&paths::workspace_root())?;
            for finding in &findings {
                println!("{finding}");
            }
            findings.is_empty()
        }
        Command::Test { only } => suite::run(only)?,
        Command::Soak { hosts: true, .. } => {
            suite::pytest(&paths::workspace_root(), "tests/soak/test_many.py")?
        }
        Command::Soak { minimize: Some(seed), .. } => {
            suite::minimize(&paths::workspace_root(), seed)?
        }
        Command::Soak { seeds, first, .. } => {
            suite::simulate(&paths::workspace_root(), seeds, first)?
        }
        Command::Bench(command) => {
            print!("{}", measure(command)?);
            true
        }
        Command::Mutants { only } => mutants::run(&paths::workspace_root(), only.as_deref())?,
        Command::Testbed(command) => return act_on_testbed(command),
        Command::Build => {
            for module in gobuild::MODULES {
                println!("{}", gobuild::build(module)?.display());
            }
            println!("{}", testbed::base::ensure()?.display());
            println!("{}", testbed::base::ensure_node()?.display());
            true
        }
        Command::NodeBinary => {
            println!("{}", binaries::node_binary()?.display());
            true
        }
        Command::Python => {
            println!("{}", python::python_venv()?.display());
            true
        }
        Command::Audit { file, nodes } => {
            let nodes = nodes.into_iter().collect();
            let report = audit::judge_file(&file, audit::PRODUCT_USER, &nodes)?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            true
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(command: BenchCommand) -> Result<String> {
    let root = paths::workspace_root();
    let (kwok, seeds, restarts, nodes, runs, minute, budgets, side_by_side) = match command {
        BenchCommand::Plan { nodes } => return bench::plan(&root, &nodes),
        BenchCommand::Reset => return bench::reset(&root),
        BenchCommand::Rollout {
            sim: _,
            kwok,
            seeds,
            restarts,
            nodes,
            runs,
            minute,
            budgets,
            side_by_side,
        } => (kwok, seeds, restarts, nodes, runs, minute, budgets, side_by_side),
    };
    if !kwok {
        return bench::rollout_sim(&root, seeds, restarts);
    }
    let options = bench::kwok::Options {
        nodes,
        runs,
        minute: Duration::from_secs(minute),
        settings: budgets
            .map_or_else(|| bench::kwok::Setting::value_variants().to_vec(), |one| vec![one]),
        side_by_side,
    };
    bench::kwok::run(&root, &options)
}

fn act_on_testbed(command: TestbedCommand) -> Result<ExitCode> {
    let place = |dir: Option<PathBuf>| dir.unwrap_or_else(testbed::default_state_dir);
    match command {
        TestbedCommand::Up {
            state_dir,
            hosts,
            real_nodes,
            kwok,
            no_join,
            host_net,
            real_net,
            ssh_port,
            evenkeel_role,
        } => {
            let options = testbed::Options {
                node_grace: testbed::DEFAULT_NODE_GRACE,
                state_dir: place(state_dir),
                hosts,
                real_nodes,
                kwok: kwok || hosts > 0,
                join: !no_join,
                host_net,
                real_net,
                ssh_port,
                evenkeel_role,
            };
            let bed = testbed::up(&options)?;
            println!("{}", serde_json::to_string_pretty(&bed)?);
            Ok(ExitCode::SUCCESS)
        }
        TestbedCommand::Token { state_dir } => {
            testbed::real::cluster::renew_token(&testbed::load(&place(state_dir))?)?;
            Ok(ExitCode::SUCCESS)
        }
        TestbedCommand::Down { state_dir } => {
            testbed::down(&place(state_dir))?;
            Ok(ExitCode::SUCCESS)
        }
        TestbedCommand::Status { state_dir } => {
            let status = testbed::status(&place(state_dir))?;
            println!("{}", serde_json::to_string_pretty(&status)?);
            Ok(if status.all_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
