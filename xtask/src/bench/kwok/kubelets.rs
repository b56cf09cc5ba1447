//! The kubelets of machines that have been reset: what shows that a node is back is that its Lease is renewed.
//!
//! The reset of both sides is one script: it sleeps, and leaves a file with the node's name. A thread here
//! renews the Lease of each such node, at once as a kubelet does when it starts, and then at its pace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::scale::Scale;
use crate::run::{Process, note, spawn, wait_for};
use crate::testbed::Testbed;

/// How often the folder is looked at: far below the time of a reset.
const LOOK: Duration = Duration::from_millis(50);
/// Renewals at the scaled pace. A node that has come back is in service long before the last; all
/// nodes renewing at that pace to the end would be most of the cluster's work.
const BRISK: u32 = 10;
/// A kubelet's own pace, in place of the scaled one, after those.
const CALM: Duration = Duration::from_secs(10);
/// For one answer on loopback.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The running thread; stopped when dropped.
pub struct Kubelets {
    /// The reset: what it is about is in `EVENKEEL_NODE`.
    pub script: PathBuf,
    proxy: Process,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelets {
    /// Writes the script into the bed's directory and starts the thread.
    pub fn start(bed: &Testbed, scale: Scale) -> Result<Self> {
        let dir = bed.state_dir.join("kubelets");
        let back = dir.join("back");
        if dir.exists() {
            fs::remove_dir_all(&dir).context("remove what an earlier run left")?;
        }
        fs::create_dir_all(&back)?;
        let script = dir.join("reset.sh");
        let seconds = scale.reset().as_secs_f64();
        let place = back.display();
        fs::write(
            &script,
            format!("#!/bin/sh\nsleep {seconds}\n: >'{place}'/\"$EVENKEEL_NODE\"\n"),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let port =
            TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port();
        // It speaks TLS and knows the token, so that a renewal is a few lines and not a process.
        let flags = [
            "--kubeconfig".to_owned(),
            bed.kubeconfigs["hosts"].display().to_string(),
            "proxy".to_owned(),
            format!("--port={port}"),
        ];
        let proxy = spawn("kubectl proxy", &bed.kubectl, &flags, &dir.join("proxy.log"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut kubelets = Self { script, proxy, stop: Arc::clone(&stop), thread: None };
        wait_for("kubectl proxy to listen", ANSWER_LIMIT, || {
            Ok(Some(TcpStream::connect(("127.0.0.1", port))?))
        })?;
        let pace = scale.renewal();
        kubelets.thread = Some(thread::spawn(move || renew_all(&back, port, pace, &stop)));
        Ok(kubelets)
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
        if let Err(error) = self.proxy.stop(Duration::from_secs(2)) {
            note(&format!("{error:#}"));
        }
    }
}

fn renew_all(back: &Path, port: u16, pace: Duration, stop: &AtomicBool) {
    // By node: renewals so far, and when the next one is due.
    let mut nodes: BTreeMap<String, (u32, Instant)> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(back).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            nodes.entry(name).or_insert((0, Instant::now()));
        }
        for (name, (times, due)) in &mut nodes {
            if *due > Instant::now() {
                continue;
            }
            if let Err(error) = renew(name, port) {
                // The next one may come through; a node without any stays out, and the run says so.
                note(&format!("the Lease of {name}: {error:#}"));
            }
            *times += 1;
            *due = Instant::now() + if *times < BRISK { pace } else { CALM };
        }
        thread::sleep(LOOK);
    }
}

fn renew(node: &str, port: u16) -> Result<()> {
    let body = format!(r#"{{"spec":{{"renewTime":"{}"}}}}"#, micro_time(SystemTime::now())?);
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(
        stream,
        "PATCH /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node} HTTP/1.1\r\n\
         Host: localhost\r\nConnection: close\r\nContent-Type: application/merge-patch+json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{status}");
    Ok(())
}

/// As Kubernetes writes a MicroTime. Days to a date: Hinnant, `civil_from_days`.
fn micro_time(at: SystemTime) -> Result<String> {
    let since = at.duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let day = doy - (153 * mp + 2) / 5 + 1;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, micro) = (second % 60, since.subsec_micros());
    Ok(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_reads_them() {
        // `date -u -d @951782400` and `-d @1798761599`.
        let at = |s: u64| micro_time(UNIX_EPOCH + Duration::new(s, 1_500_000)).unwrap();
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.001500Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.001500Z");
    }
}
