//! The program as it is shipped: a real server process, and the client against it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A start takes well under a second; hashing the first password in a test build is the longest part.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A stop closes the store.
const STOP_LIMIT: Duration = Duration::from_secs(20);

const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

/// A server process; killed with the value if it was not stopped.
struct Served {
    child: Child,
    endpoint: String,
    /// What the first start printed, by name.
    credential: BTreeMap<String, String>,
}

impl Served {
    /// Starts a server on a free port. Its address stands in the log, the first credential on standard output.
    fn start(home: &Path) -> Self {
        let mut child = Command::new(EVENKEEL)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--data-dir",
                "data",
                "--key-file",
                "seal.key",
            ])
            .current_dir(home)
            .env_remove("EVENKEEL_CONFIG")
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = mpsc::channel();
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    // The test may have stopped listening; the pipe still has to be emptied.
                    let _sent = said.send(line);
                }
            });
        }
        let mut served = Self { child, endpoint: String::new(), credential: BTreeMap::new() };
        let until = Instant::now() + START_LIMIT;
        while served.endpoint.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).expect("the server says that it is serving");
            if let Some((name, value)) = line.trim().split_once("  ") {
                served.credential.insert(name.to_owned(), value.trim().to_owned());
            }
            if line.contains("serving") {
                let port: String = line
                    .rsplit("127.0.0.1:")
                    .next()
                    .unwrap()
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                served.endpoint = format!("http://127.0.0.1:{port}");
            }
        }
        // The credential goes another way than the log, so it may arrive after it.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
            if let Some((name, value)) = line.trim().split_once("  ") {
                served.credential.insert(name.to_owned(), value.trim().to_owned());
            }
        }
        served
    }

    /// Asks it to stop, as an init system does, and gives its exit status.
    fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let until = Instant::now() + STOP_LIMIT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not stop within {} s", STOP_LIMIT.as_secs());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn client(home: &Path, args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(EVENKEEL);
    command.args(args).current_dir(home).env_clear().env("HOME", home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read may have ended already.
    let _written = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn login(home: &Path, served: &Served, ak: &str, sk: &str) -> (Option<i32>, String, String) {
    client(home, &["login", "--endpoint", &served.endpoint, "--ak", ak], sk)
}

fn write(home: &Path, name: &str, content: &str) -> PathBuf {
    let path = home.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn first_start_login_and_calls_against_the_real_server() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let served = Served::start(home);
    let of = |name: &str| served.credential[name].clone();
    let (ak, sk, project) = (of("AK"), of("SK"), of("project id"));

    let (exit, _, said) = login(home, &served, &ak, "wrong");
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.starts_with("error: APIGW.0301: "), "{said}");
    let (exit, out, said) = login(home, &served, &ak, &sk);
    assert_eq!((exit, out.as_str()), (Some(0), ""), "{said}");
    assert!(said.starts_with(&format!("project {project} ")), "{said}");

    let (exit, out, said) = client(home, &["cluster", "list"], "");
    assert_eq!(
        (exit, out.as_str(), said.as_str()),
        (Some(0), "NAME  ID  PHASE  VERSION  NODES  READY\n", "")
    );
    let (exit, _, said) = client(home, &["pool", "list"], "");
    assert_eq!(exit, Some(2));
    assert_eq!(
        said,
        "error: there is no cluster yet\n\nhint: register one with `evenkeel cluster add`\n"
    );

    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8 me";
    write(home, "k.pub", line);
    let (exit, out, said) = client(home, &["keypair", "import", "ops", "k.pub"], "");
    assert_eq!(exit, Some(0), "{said}");
    assert!(out.starts_with("NAME  FINGERPRINTS\nops   SHA256:"), "{out}");
    assert_eq!(client(home, &["keypair", "list"], "").1, out);

    let kubeconfig = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
        clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: canary}}]\n";
    write(home, "kubeconfig", kubeconfig);
    let (exit, _, said) =
        client(home, &["cluster", "add", "lab", "--kubeconfig", "kubeconfig"], "");
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("CCE.01400001") && !said.contains("canary"), "{said}");

    let (exit, _, said) = client(home, &["get", "job", "01890000-0000-7000-8000-000000000001"], "");
    assert_eq!(exit, Some(1));
    assert!(said.contains("CCE.01404001") && said.contains("request id "), "{said}");
    assert_eq!(served.stop(), Some(0));
    let (exit, _, said) = client(home, &["cluster", "list"], "");
    assert_eq!(exit, Some(3), "{said}");
}

#[test]
fn a_backup_is_put_back_and_serves_the_same_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let served = Served::start(home);
    let (ak, sk) = (served.credential["AK"].clone(), served.credential["SK"].clone());
    let (exit, _, said) = client(home, &["backup", "--data-dir", "data", "copy.db"], "");
    assert_eq!(exit, Some(1), "a store in use was opened twice: {said}");
    assert_eq!(served.stop(), Some(0));

    let (exit, out, said) = client(home, &["backup", "--data-dir", "data", "copy.db"], "");
    assert_eq!((exit, out.as_str()), (Some(0), ""), "{said}");
    let (exit, _, said) = client(home, &["restore", "copy.db", "--data-dir", "data"], "");
    assert_eq!(exit, Some(1), "a store was overwritten: {said}");
    std::fs::rename(home.join("data"), home.join("lost")).unwrap();
    let (exit, _, said) = client(home, &["restore", "copy.db", "--data-dir", "data"], "");
    assert_eq!(exit, Some(0), "{said}");

    let served = Served::start(home);
    assert!(!served.credential.contains_key("SK"), "a second start made another credential");
    let (exit, _, said) = login(home, &served, &ak, &sk);
    assert_eq!(exit, Some(0), "{said}");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn settings_that_cannot_be_used_are_status_2() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    write(home, "bad.toml", "lisen = \"x\"\n");
    for args in [
        &["serve", "--config", "bad.toml"][..],
        &["serve", "--listen", "0.0.0.0:0"],
        &["serve", "--config", "none"],
    ] {
        let (exit, out, said) = client(home, args, "");
        assert_eq!((exit, out.as_str()), (Some(2), ""), "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
    assert_eq!(
        std::fs::read_dir(home).unwrap().count(),
        1,
        "a refused start left something behind"
    );
}
