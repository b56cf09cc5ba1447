//! The recipe `kubeadm`: what is run on the host to leave and to join a cluster. Pure.
//!
//! Two orders, because the controller has something to do in between: once the kubelet has stopped, the API server
//! must no longer believe it to be Ready, or `kubeadm join` refuses the name. The Node object stays, and with it
//! its cordon, our mark, and the labels and taints that people put there.

use crate::sync::ports::Ticket;
use evenkeel_engine::ids::NodeName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

/// What kubeadm and its node need to be there. `ip` and `iptables` are preflight checks of kubeadm itself.
pub(super) const NEEDS: &[&str] = &["kubeadm", "kubelet", "systemctl"];
/// The first minor version of kubeadm that reads the configuration format v1beta4.
const FIRST_V1BETA4: u32 = 31;
/// kubelets may be this many minor versions older than the API server (Kubernetes' version skew policy).
const SKEW_MAX: u32 = 3;

/// The user's settings of the recipe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    pub endpoint: Option<&'a str>,
    pub cri_socket: Option<&'a str>,
    pub ignore_preflight: &'a [String],
    pub data_dirs: &'a [String],
}

/// Takes Kubernetes off the host. Running it again is harmless.
pub(super) fn teardown(settings: Settings<'_>, retain_volumes: bool) -> String {
    let mut script = String::from("#!/bin/sh\nset -eu\nkubeadm reset --force");
    if let Some(socket) = settings.cri_socket {
        script.push_str(&format!(" --cri-socket {}", quoted(socket)));
    }
    script.push_str(
        "\n# What kubeadm leaves: network configuration, certificates and state of the kubelet.\n\
         rm -rf /etc/cni/net.d/* /var/lib/cni/* /etc/kubernetes/pki /etc/kubernetes/*.conf\n\
         for path in /var/lib/kubelet/* /var/lib/kubelet/.[!.]*; do\n  \
         if [ -e \"$path\" ]; then rm -rf --one-file-system \"$path\"; fi\ndone\n",
    );
    if !retain_volumes {
        for dir in settings.data_dirs {
            let dir = quoted(dir);
            script.push_str(&format!(
                "if [ -d {dir} ]; then find {dir} -xdev -mindepth 1 -delete; fi\n"
            ));
        }
    }
    script.push_str("if systemctl is-active --quiet kubelet; then echo 'the kubelet still runs' >&2; exit 1; fi\n");
    script
}

/// Joins the cluster again. Secret: it holds the token.
pub(super) fn join(
    settings: Settings<'_>,
    node: &NodeName,
    ticket: &Ticket,
    version: &str,
    kubelet: &Map<String, Value>,
) -> SecretString {
    let server = match settings.endpoint {
        Some(endpoint) => format!("https://{endpoint}"),
        None => ticket.server.clone(),
    };
    let mut cluster = json!({"server": server});
    if let Some(ca) = &ticket.ca_data {
        cluster["certificate-authority-data"] = Value::from(ca.as_str());
    }
    let discovery = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "contexts": [{"name": "join", "context": {"cluster": "cluster", "user": "join"}}],
        "current-context": "join",
        "users": [{"name": "join", "user": {}}],
    });
    let format = match minor(version) {
        Some(minor) if minor < FIRST_V1BETA4 => "kubeadm.k8s.io/v1beta3",
        _ => "kubeadm.k8s.io/v1beta4",
    };
    let mut registration = json!({"name": node});
    if let Some(socket) = settings.cri_socket {
        registration["criSocket"] = Value::from(socket);
    }
    if !settings.ignore_preflight.is_empty() {
        registration["ignorePreflightErrors"] = json!(settings.ignore_preflight);
    }
    let config = json!({
        "apiVersion": format,
        "kind": "JoinConfiguration",
        "discovery": {
            "file": {"kubeConfigPath": "@DIR@/discovery.conf"},
            "tlsBootstrapToken": ticket.token.expose_secret(),
        },
        "nodeRegistration": registration,
        "patches": {"directory": "@DIR@/patches"},
    });
    let mut script = String::from(
        "#!/bin/sh\nset -eu\numask 077\ndir=$(mktemp -d /run/evenkeel-join.XXXXXX)\ntrap 'rm -rf \"$dir\"' EXIT\n\
         mkdir \"$dir/patches\"\n",
    );
    script.push_str(&file("discovery.conf", &discovery.to_string()));
    script.push_str(&file("join.json", &config.to_string()));
    if !kubelet.is_empty() {
        let patch = Value::Object(kubelet.clone()).to_string();
        script.push_str(&file("patches/kubeletconfiguration0+merge.json", &patch));
    }
    script.push_str("kubeadm join --config \"$dir/join.json\"\n");
    SecretString::from(script)
}

/// The node's kubelet must not be newer than the API server, and at most three minor versions older.
pub(super) fn skew(kubelet: &str, server: &str) -> Result<(), String> {
    let (Some(ours), Some(theirs)) = (minor(kubelet), minor(server)) else {
        return Err(format!("the versions {kubelet:?} and {server:?} cannot be compared"));
    };
    if ours > theirs {
        return Err(format!(
            "its kubelet {kubelet} is newer than the API server {server}: install a kubelet of 1.{theirs} or older"
        ));
    }
    if theirs - ours > SKEW_MAX {
        return Err(format!(
            "its kubelet {kubelet} is more than {SKEW_MAX} minor versions older than the API server {server}: \
             upgrade it"
        ));
    }
    Ok(())
}

/// `36` of `v1.36.3`, also with `Kubernetes ` before it.
fn minor(version: &str) -> Option<u32> {
    let version = version.trim().rsplit(' ').next()?.trim_start_matches('v');
    let mut parts = version.split('.');
    if parts.next()? != "1" {
        return None;
    }
    let digits: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Writes a file of one line; the place of the private directory is filled in by sed, which sees no secret in argv.
fn file(name: &str, content: &str) -> String {
    format!("sed \"s|@DIR@|$dir|g\" > \"$dir/{name}\" <<'EVENKEEL-END'\n{content}\nEVENKEEL-END\n")
}

/// A word for `sh`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings<'static> {
        Settings { endpoint: None, cri_socket: None, ignore_preflight: &[], data_dirs: &[] }
    }

    fn ticket() -> Ticket {
        Ticket {
            server: "https://10.0.0.1:6443".into(),
            ca_data: Some("Q0E=".into()),
            token: SecretString::from("abcdef.0123456789abcdef"),
            token_id: "abcdef".into(),
        }
    }

    #[test]
    fn the_join_names_server_ca_token_and_kubelet_settings() {
        let kubelet = Map::from_iter([("maxPods".to_owned(), json!(64))]);
        let node = NodeName::new("node-1");
        let script = join(settings(), &node, &ticket(), "v1.36.3", &kubelet);
        let script = script.expose_secret();
        for part in [
            "https://10.0.0.1:6443",
            "Q0E=",
            "abcdef.0123456789abcdef",
            "kubeadm.k8s.io/v1beta4",
            "\"maxPods\":64",
            "\"name\":\"node-1\"",
        ] {
            assert!(script.contains(part), "{part} is missing");
        }
        let endpoint = Settings { endpoint: Some("cp.example:6443"), ..settings() };
        let script = join(endpoint, &node, &ticket(), "v1.30.1", &Map::new());
        assert!(script.expose_secret().contains("https://cp.example:6443"));
        assert!(script.expose_secret().contains("v1beta3"));
        assert!(!script.expose_secret().contains("kubeletconfiguration0"));
    }

    #[test]
    fn the_teardown_empties_data_directories_unless_they_are_retained() {
        let dirs = ["/data/it's".to_owned()];
        let with =
            Settings { data_dirs: &dirs, cri_socket: Some("unix:///run/x.sock"), ..settings() };
        let script = teardown(with, false);
        assert!(script.contains(r"find '/data/it'\''s' -xdev -mindepth 1 -delete"), "{script}");
        assert!(script.contains("--cri-socket 'unix:///run/x.sock'"));
        assert!(!teardown(with, true).contains("/data"));
    }

    #[test]
    fn version_skew_follows_the_policy() {
        let rows = [
            ("Kubernetes v1.36.3", "v1.36.0", true),
            ("v1.33.9", "v1.36.0", true),
            ("v1.32.9", "v1.36.0", false),
            ("v1.37.0", "v1.36.9", false),
            ("v1.36.3", "v1.36.3+k3s1", true),
            ("nonsense", "v1.36.3", false),
        ];
        for (kubelet, server, fine) in rows {
            assert_eq!(skew(kubelet, server).is_ok(), fine, "{kubelet} {server}");
        }
    }
}
