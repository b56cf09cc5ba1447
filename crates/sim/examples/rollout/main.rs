//! How long a rollout takes, against its lower bound and against how others order it.
//!
//! `rollout SCENARIO.json OUT.json SEEDS RESTARTS` prints a table and writes the figures as JSON.
#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

mod drive;
mod model;

use model::{Instance, Peer, best_of, by_zone, play};
use serde_json::{Value, json};
use std::error::Error;

struct Sums {
    name: String,
    columns: Vec<(&'static str, f64)>,
}

fn measure(name: &str, instances: &[Instance], restarts: u32) -> Result<Sums, Box<dyn Error>> {
    let mut sums = [0.0; 7];
    for (seed, instance) in instances.iter().enumerate() {
        let bound = instance.lower_bound() as f64;
        let list: Vec<usize> = (0..instance.pods.len()).collect();
        let ours = drive::makespan(instance, false, true)? as f64;
        let row = [
            ours / bound,
            drive::makespan(instance, false, false)? as f64 / bound,
            drive::makespan(instance, true, true)? as f64 / bound,
            play(instance, &list, Peer::Window) as f64 / bound,
            play(instance, &by_zone(instance), Peer::Window) as f64 / bound,
            play(instance, &list, Peer::Waves) as f64 / bound,
            ours / best_of(instance, restarts, seed as u64) as f64,
        ];
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let names = ["ours", "untaught", "canary", "fifo", "zone-age", "waves", "ours/best"];
    let count = instances.len() as f64;
    let columns = names.into_iter().zip(sums.map(|sum| sum / count)).collect();
    Ok(Sums { name: name.to_owned(), columns })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, out, seeds, restarts] = &arguments[..] else {
        return Err("usage: rollout SCENARIO.json OUT.json SEEDS RESTARTS".into());
    };
    let scenario: Value = serde_json::from_slice(&std::fs::read(scenario)?)?;
    let (seeds, restarts): (u64, u32) = (seeds.parse()?, restarts.parse()?);
    let mut rows = Vec::new();
    type Make = fn(&Value, &Value, u64) -> Instance;
    let kinds: [(&str, Make); 2] = [("drain", Instance::drains), ("chains", Instance::chains)];
    println!("makespan / lower bound, mean of {seeds} seeds; ours/best: {restarts} random lists");
    for (kind, make) in kinds {
        for row in scenario[kind].as_array().into_iter().flatten() {
            let instances: Vec<Instance> = (1..=seeds).map(|s| make(&scenario, row, s)).collect();
            let name = row["name"].as_str().unwrap_or("?");
            let sums = measure(name, &instances, restarts)?;
            if rows.is_empty() {
                let heads: Vec<String> =
                    sums.columns.iter().map(|(head, _)| format!("{head:>9}")).collect();
                println!("{:<18}{}", "setting", heads.join(" "));
            }
            let cells: Vec<String> =
                sums.columns.iter().map(|(_, value)| format!("{value:>9.3}")).collect();
            println!("{:<18}{}", sums.name, cells.join(" "));
            let figures: serde_json::Map<String, Value> = sums
                .columns
                .iter()
                .map(|(head, value)| ((*head).to_owned(), json!(value)))
                .collect();
            rows.push(json!({"setting": sums.name, "figures": figures}));
        }
    }
    std::fs::write(out, serde_json::to_vec_pretty(&json!({"seeds": seeds, "rows": rows}))?)?;
    Ok(())
}
