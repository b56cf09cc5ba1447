//! The login on a host whose tools are played: files below a temporary root are real.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::rc::Rc;

use evenkeel_node::host::{Host, Said, Tools};
use evenkeel_node::login::{BLOCK_BEGIN, BLOCK_END, LoginError, apply};
use evenkeel_node::protocol::*;
use evenkeel_node::prove::prove;
use evenkeel_node::sshd::SshdError;
use tempfile::TempDir;

const OWN: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8pb1xGvnU1xV0K5cyyGB7oPLgnXxmFQ3LzoPCy2yWs own";
const POOL: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBBb1xGvnU1xV0K5cyyGB7oPLgnXxmFQ3LzoPCy2yWs pool";
const NEXT: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICCCb1xGvnU1xV0K5cyyGB7oPLgnXxmFQ3LzoPCy2yWs next";

/// What the tools of the distribution would know and do.
#[derive(Default)]
struct World {
    /// User `u`'s home and field in shadow.
    home: String,
    shadow: String,
    /// Field of user `ops`, who had the login before; at home in /home/ops.
    shadow_of_ops: String,
    sshd_refuses: bool,
    hang_ups: Vec<i32>,
    calls: Vec<String>,
}

struct Played {
    world: Rc<RefCell<World>>,
    drop_in: std::path::PathBuf,
}

impl Tools for Played {
    fn run(&self, program: &str, args: &[&str], stdin: &[u8]) -> io::Result<Said> {
        let mut world = self.world.borrow_mut();
        world.calls.push(format!("{program} {}", args.join(" ")));
        let ok = |stdout: String| Said { code: Some(0), stdout, stderr: String::new() };
        let no = |code, stderr: &str| Said {
            code: Some(code),
            stderr: stderr.into(),
            ..ok(String::new())
        };
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        Ok(match (program, args) {
            ("getent", ["passwd", "u" | "root"]) => {
                ok(format!("u:x:{}:{}::{}:/bin/sh\n", uid.as_raw(), gid.as_raw(), world.home))
            }
            ("getent", ["shadow", "u" | "root"]) => ok(format!("u:{}:20000::::::\n", world.shadow)),
            ("getent", ["passwd", "ops"]) => {
                ok(format!("ops:x:{}:{}::/home/ops:/bin/sh\n", uid.as_raw(), gid.as_raw()))
            }
            ("getent", ["shadow", "ops"]) => {
                ok(format!("ops:{}:20000::::::\n", world.shadow_of_ops))
            }
            ("getent", _) => no(2, ""),
            ("chpasswd", ["-e"]) => {
                let line = String::from_utf8(stdin.to_vec()).unwrap();
                world.shadow = line.trim_end().split_once(':').unwrap().1.to_owned();
                ok(String::new())
            }
            ("passwd", ["-l", "ops"]) => {
                world.shadow_of_ops = format!("!{}", world.shadow_of_ops);
                ok(String::new())
            }
            ("passwd", ["-l", _]) => {
                world.shadow = format!("!{}", world.shadow);
                ok(String::new())
            }
            ("sshd", ["-t"]) if world.sshd_refuses => no(255, "line 3: Bad configuration option"),
            ("sshd", ["-t"]) => ok(String::new()),
            ("sshd", ["-T", ..]) => {
                let password = if self.drop_in.exists() { "yes" } else { "no" };
                ok(format!(
                    "pidfile /run/sshd.pid\npubkeyauthentication yes\npasswordauthentication {password}\n\
                     authenticationmethods any\npermitrootlogin prohibit-password\n\
                     authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2\n"
                ))
            }
            other => panic!("nobody should call {other:?}"),
        })
    }

    fn hang_up(&self, pid: i32) -> io::Result<()> {
        self.world.borrow_mut().hang_ups.push(pid);
        Ok(())
    }
}

struct Bed {
    dir: TempDir,
    host: Host,
    world: Rc<RefCell<World>>,
}

/// No process has this number: Linux numbers end at 2^22.
const NOBODY: i32 = 1 << 23;

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["etc/ssh/sshd_config.d", "run", "home/u", "home/ops"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let include = "Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication no\n";
        fs::write(dir.path().join("etc/ssh/sshd_config"), include).unwrap();
        fs::write(dir.path().join("run/sshd.pid"), format!("{NOBODY}\n")).unwrap();
        let world = Rc::new(RefCell::new(World { home: "/home/u".into(), ..World::default() }));
        let drop_in = dir.path().join("etc/ssh/sshd_config.d/10-evenkeel-u.conf");
        let tools = Box::new(Played { world: Rc::clone(&world), drop_in });
        let host = Host { root: dir.path().to_owned(), tools };
        Self { dir, host, world }
    }

    fn ssh_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("home/u/.ssh")
    }

    fn drop_in(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("etc/ssh/sshd_config.d/10-evenkeel-u.conf")).ok()
    }

    fn keys(&self) -> String {
        fs::read_to_string(self.ssh_dir().join("authorized_keys")).unwrap()
    }

    fn set_keys(&self, text: &str) {
        fs::create_dir_all(self.ssh_dir()).unwrap();
        fs::write(self.ssh_dir().join("authorized_keys"), text).unwrap();
    }

    /// First check that failed.
    fn proof(&self, login: &LoginOrder) -> Option<String> {
        let request = ProveRequest { login: login.clone(), addr: "127.0.0.1".parse().unwrap() };
        prove(&self.host, &request).first_failure().map(|check| check.name.clone())
    }
}

fn login() -> LoginOrder {
    LoginOrder {
        user: "u".parse().unwrap(),
        password_hash: None,
        remove_password: None,
        authorized_keys: None,
        remove_keys: None,
        keep_key: Some(OWN.into()),
    }
}

fn with_keys(keys: &[&str]) -> LoginOrder {
    LoginOrder {
        authorized_keys: Some(keys.iter().map(|key| (*key).to_owned()).collect()),
        ..login()
    }
}

fn with_password() -> LoginOrder {
    let hash = format!("$6$salt${}", "a".repeat(86));
    LoginOrder { password_hash: Some(hash.into()), ..login() }
}

fn block(keys: &[&str]) -> String {
    format!("{BLOCK_BEGIN}\n{}\n{BLOCK_END}\n", keys.join("\n"))
}

#[test]
fn keys_are_replaced_inside_the_block_only() {
    let bed = Bed::new();
    let (before, after) = ("# mine\nssh-rsa AAAA someone\n", "ssh-rsa BBBB else\n  # odd \n");
    bed.set_keys(before);
    assert!(bed.proof(&with_keys(&[POOL])).is_some());
    apply(&bed.host, &with_keys(&[POOL])).unwrap();
    assert_eq!(bed.keys(), format!("{before}{}", block(&[OWN, POOL])));
    assert_eq!(bed.proof(&with_keys(&[POOL])), None);

    bed.set_keys(&format!("{before}{}{after}", block(&[OWN, POOL])));
    apply(&bed.host, &with_keys(&[NEXT, OWN])).unwrap();
    assert_eq!(bed.keys(), format!("{before}{}{after}", block(&[OWN, NEXT])));
    assert_eq!(bed.proof(&with_keys(&[POOL])), Some("key".into()), "the old key is out");

    apply(&bed.host, &login()).unwrap();
    assert_eq!(
        bed.keys(),
        format!("{before}{}{after}", block(&[OWN, NEXT])),
        "not asked, not touched"
    );
    let remove = LoginOrder { remove_keys: Some("u".parse().unwrap()), ..login() };
    assert_eq!(bed.proof(&remove), Some("managed_block".into()));
    apply(&bed.host, &remove).unwrap();
    assert_eq!(bed.keys(), format!("{before}{}{after}", block(&[OWN])), "our own key stays");
    assert_eq!(bed.proof(&remove), None);
    assert!(bed.world.borrow().hang_ups.is_empty(), "keys need no reload");
}

#[test]
fn directory_and_file_are_private_and_the_users_own() {
    let bed = Bed::new();
    bed.set_keys("ssh-rsa AAAA without-newline");
    fs::set_permissions(bed.ssh_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(bed.proof(&login()), Some("managed_block".into()));
    apply(&bed.host, &login()).unwrap();
    for (path, mode) in [(bed.ssh_dir(), 0o700), (bed.ssh_dir().join("authorized_keys"), 0o600)] {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.mode() & 0o777, mode);
        assert_eq!(found.uid(), rustix::process::getuid().as_raw());
    }
    assert_eq!(bed.keys(), format!("ssh-rsa AAAA without-newline\n{}", block(&[OWN])));
    assert_eq!(fs::read_dir(bed.ssh_dir()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_users_symbolic_links_are_not_followed() {
    let bed = Bed::new();
    let target = bed.dir.path().join("etc/shadow");
    fs::write(&target, "root:secret\n").unwrap();
    fs::create_dir_all(bed.ssh_dir()).unwrap();
    symlink(&target, bed.ssh_dir().join("authorized_keys")).unwrap();
    assert!(matches!(apply(&bed.host, &login()), Err(LoginError::Keys { .. })));
    fs::remove_dir_all(bed.ssh_dir()).unwrap();
    symlink(bed.dir.path().join("etc"), bed.ssh_dir()).unwrap();
    assert!(matches!(apply(&bed.host, &login()), Err(LoginError::Keys { .. })));
    assert_eq!(fs::read_to_string(&target).unwrap(), "root:secret\n");
    assert!(!bed.dir.path().join("etc/authorized_keys").exists());
}

#[test]
fn a_block_without_end_is_left_to_a_person() {
    let bed = Bed::new();
    let broken = format!("{BLOCK_BEGIN}\n{OWN}\nssh-rsa AAAA someone\n");
    bed.set_keys(&broken);
    assert!(matches!(apply(&bed.host, &with_keys(&[POOL])), Err(LoginError::Keys { .. })));
    assert_eq!(bed.keys(), broken);
}

#[test]
fn a_password_opens_sshd_for_this_user_and_its_removal_closes_it() {
    let bed = Bed::new();
    let set = with_password();
    assert_eq!(bed.proof(&set), Some("password".into()));
    apply(&bed.host, &set).unwrap();
    let expected = "Match User u\n    PasswordAuthentication yes\nMatch all\n";
    assert!(bed.drop_in().unwrap().ends_with(expected));
    assert_eq!(bed.world.borrow().hang_ups, [NOBODY]);
    assert_eq!(bed.proof(&set), None);
    assert!(!bed.world.borrow().calls.iter().any(|call| call.contains("$6$")), "never in argv");
    apply(&bed.host, &set).unwrap();
    assert_eq!(
        bed.world.borrow().hang_ups.len(),
        2,
        "told again: whoever put the file there may not have told"
    );

    let remove = LoginOrder { remove_password: Some("u".parse().unwrap()), ..login() };
    assert_eq!(bed.proof(&remove), Some("password_locked".into()));
    apply(&bed.host, &remove).unwrap();
    assert_eq!(bed.drop_in(), None);
    assert_eq!(bed.world.borrow().hang_ups.len(), 3);
    assert_eq!(bed.proof(&remove), None);
}

#[test]
fn what_is_removed_is_removed_from_the_user_who_had_it() {
    let bed = Bed::new();
    let ops = "ops".parse::<UserName>().unwrap();
    let theirs = bed.dir.path().join("home/ops/.ssh/authorized_keys");
    let drop_in = bed.dir.path().join("etc/ssh/sshd_config.d/10-evenkeel-ops.conf");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, format!("# mine\n{}", block(&[OWN, POOL]))).unwrap();
    fs::write(&drop_in, "Match User ops\n").unwrap();
    bed.world.borrow_mut().shadow = "mine".into();
    bed.world.borrow_mut().shadow_of_ops = "$6$theirs".into();

    let switch = LoginOrder {
        remove_password: Some(ops.clone()),
        remove_keys: Some(ops.clone()),
        ..with_keys(&[NEXT])
    };
    assert_eq!(
        bed.proof(&LoginOrder { remove_keys: None, ..switch.clone() }),
        Some("managed_block".into())
    );
    apply(&bed.host, &with_keys(&[NEXT])).unwrap();
    assert_eq!(
        bed.proof(&LoginOrder { remove_keys: None, ..switch.clone() }),
        Some("password_locked".into())
    );
    assert_eq!(
        bed.proof(&LoginOrder { remove_password: None, ..switch.clone() }),
        Some("managed_block".into())
    );
    apply(&bed.host, &switch).unwrap();
    assert_eq!(bed.world.borrow().shadow, "mine", "the new user's password is not touched");
    assert_eq!(bed.world.borrow().shadow_of_ops, "!$6$theirs");
    assert!(!drop_in.exists());
    assert_eq!(fs::read_to_string(&theirs).unwrap(), format!("# mine\n{}", block(&[OWN])));
    assert_eq!(bed.keys(), block(&[OWN, NEXT]));
    assert_eq!(bed.proof(&switch), None);

    // Somebody who is no longer there has nothing left to take away.
    let gone = "gone".parse::<UserName>().unwrap();
    let switch = LoginOrder {
        remove_password: Some(gone.clone()),
        remove_keys: Some(gone),
        ..with_keys(&[NEXT])
    };
    apply(&bed.host, &switch).unwrap();
    assert_eq!(bed.proof(&switch), None);
}

#[test]
fn a_reload_that_failed_is_made_up_for() {
    let bed = Bed::new();
    let pid_file = bed.dir.path().join("run/sshd.pid");
    fs::remove_file(&pid_file).unwrap();
    let failed = apply(&bed.host, &with_password());
    assert!(matches!(failed, Err(LoginError::Sshd(SshdError::Reload(_)))), "{failed:?}");
    fs::write(&pid_file, format!("{NOBODY}\n")).unwrap();
    apply(&bed.host, &with_password()).unwrap();
    assert_eq!(bed.world.borrow().hang_ups, [NOBODY], "the running sshd was told at last");
}

#[test]
fn what_sshd_refuses_is_taken_back_and_the_password_stays() {
    let bed = Bed::new();
    bed.world.borrow_mut().shadow = "old".into();
    bed.world.borrow_mut().sshd_refuses = true;
    let error = apply(&bed.host, &with_password()).unwrap_err();
    assert!(matches!(error, LoginError::Sshd(SshdError::Refused(_))), "{error:?}");
    assert!(evenkeel_node::verbs::chain(&error).contains("Bad configuration option"));
    assert_eq!(bed.drop_in(), None);
    assert_eq!(bed.world.borrow().shadow, "old");
    assert!(bed.world.borrow().hang_ups.is_empty());
}

#[test]
fn without_include_a_drop_in_would_be_dead_and_that_is_said() {
    let bed = Bed::new();
    fs::write(
        bed.dir.path().join("etc/ssh/sshd_config"),
        "#Include /etc/ssh/sshd_config.d/*.conf\n",
    )
    .unwrap();
    let error = apply(&bed.host, &with_password()).unwrap_err();
    assert!(matches!(error, LoginError::Sshd(SshdError::NoInclude)), "{error:?}");
    assert_eq!(bed.drop_in(), None);
    apply(&bed.host, &with_keys(&[POOL])).unwrap();
}

#[test]
fn an_unknown_user_is_an_error_before_anything_is_touched() {
    let bed = Bed::new();
    let order = LoginOrder { user: "nobody-here".parse().unwrap(), ..with_password() };
    assert!(matches!(apply(&bed.host, &order), Err(LoginError::UnknownUser(_))));
    assert_eq!(bed.world.borrow().calls, ["getent passwd nobody-here"]);
    assert_eq!(bed.proof(&order), Some("user".into()));
}
