#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

const ED_1: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8";
const ED_2: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEsO2gyc0qPc2fpKuo59gqgGpj5FiHHCNLQOPnWLDnAL";
const ED_3: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILoMA7AsMO9gJX3+K0ONdemIfT5gmVebQ6Lc2PCQdvzo";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBG4z5lKSQ4eceQs7dvj4ZgD6L+x3ENIav/Gtkt6o5jPyR8ECpZErhlGFwjygYJxLF+zXOioOWazx3IYyWb+1cPc=";

/// Made by `ssh-keygen -H` from hashed.example (the first key) and [hashed.example]:2222 (the second).
const HASHED: &str = "|1|NgdsIqnNMyzarqy7N1vkny8LqNQ=|1PzdYWIXKB3Wr8p4Q0GUEjzlqCE= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKS60DkNUVc1UszF+aBad73bWcMIOuMU2FZq1NvyRby8
|1|Rvznt7JHYr5WNPQcvCYvIcPbr2E=|LQskNTDA3IadB1A0QrTLAHLtixA= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEsO2gyc0qPc2fpKuo59gqgGpj5FiHHCNLQOPnWLDnAL";

fn find(text: &str, host: &str, port: u16) -> Option<String> {
    KnownHosts::parse(text).find(&[(host.to_owned(), port)])
}

#[test]
fn names_ports_patterns_and_negations() {
    let text = format!(
        "# a comment\n\n10.0.0.1,node-1 {ED_1} some comment\n[10.0.0.1]:2222 {ED_2}\n*.lab,!x.lab,?9.corp {ED_3}\n"
    );
    let cases = [
        ("10.0.0.1", 22, Some(ED_1)),
        ("node-1", 22, Some(ED_1)),
        ("NODE-1", 22, Some(ED_1)),
        ("10.0.0.1", 2222, Some(ED_2)),
        ("node-1", 2222, None),
        ("10.0.0.10", 22, None),
        ("a.b.lab", 22, Some(ED_3)),
        ("x.lab", 22, None),
        ("a9.corp", 22, Some(ED_3)),
        ("aa9.corp", 22, None),
    ];
    for (host, port, wanted) in cases {
        assert_eq!(find(&text, host, port).as_deref(), wanted, "{host}:{port}");
    }
}

#[test]
fn hashed_names_are_found_as_openssh_wrote_them() {
    assert_eq!(find(HASHED, "hashed.example", 22).as_deref(), Some(ED_1));
    assert_eq!(find(HASHED, "hashed.example", 2222).as_deref(), Some(ED_2));
    assert_eq!(find(HASHED, "other.example", 22), None);
}

#[test]
fn the_best_key_wins_and_revoked_ones_never_do() {
    let text = format!("h {ECDSA}\nh {ED_1}\n");
    assert_eq!(find(&text, "h", 22).as_deref(), Some(ED_1));
    let text = format!("{text}@revoked * {ED_1}\n@cert-authority * {ED_2}\nh ssh-unknown AAAA\n");
    assert_eq!(find(&text, "h", 22).as_deref(), Some(ECDSA));
    assert_eq!(KnownHosts::parse(&text).unread, 1);
}

#[test]
fn the_first_place_with_a_key_wins() {
    let known = KnownHosts::parse(&format!("10.0.0.1 {ED_1}\nnode-1 {ED_2}\n"));
    let places = |list: &[(&str, u16)]| -> Vec<(String, u16)> {
        list.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect()
    };
    assert_eq!(known.find(&places(&[("10.0.0.1", 22), ("node-1", 22)])).unwrap(), ED_1);
    assert_eq!(known.find(&places(&[("10.0.0.2", 22), ("node-1", 22)])).unwrap(), ED_2);
}

#[test]
fn a_line_given_by_hand_is_checked() {
    assert_eq!(check_line("--host-key n", &format!("{ED_1} root@host")).unwrap(), ED_1);
    let error = check_line("--host-key n", "ssh-ed25519 AAAAnonsense").unwrap_err();
    assert_eq!(error.to_string(), "--host-key n: this is not an OpenSSH public key line");
}
