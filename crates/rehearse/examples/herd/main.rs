//! A Kubernetes API server with very many nodes and pods, for `cargo xtask bench plan`: what a control plane has to
//! read at 10,000 nodes, without the control plane that would fill this machine by itself.
//!
//! `herd NODES PODS_PER_NODE` prints its address and serves until its standard input ends. Every pod is 4 kB of JSON,
//! managedFields and all. Evictions are charged to budgets; an evicted pod goes and is replaced on another node.
#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

mod herd;
mod http;
mod json;

use std::error::Error;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, pods] = &arguments[..] else {
        return Err("usage: herd NODES PODS_PER_NODE".into());
    };
    let herd = Arc::new(Mutex::new(herd::Herd::new(nodes.parse()?, pods.parse()?)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let served = tokio::spawn(http::serve(listener, herd));
    // Whoever started it holds the other end; when that one dies, so does this.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    served.abort();
    Ok(())
}
