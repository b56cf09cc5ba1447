//! The recipe `kubeadm`: what is run on the host to leave and to join a cluster. Pure.
//!
//! Two orders, because the controller has something to do in between: once the kubelet has stopped, the API server
//! must no longer believe it to be Ready, or `kubeadm join` refuses the name. The Node object stays, and with it
//! its cordon, our mark, and the labels and taints that people put there.

use crate::records::{Kubeadm, NodeConfig};
use crate::sync::ports::Ticket;
use evenkeel_engine::facts::{STARTUP_EFFECT, STARTUP_TAINT, STARTUP_VALUE};
use evenkeel_engine::ids::NodeName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What kubeadm and its node need to be there; `ip` is for what pod networks leave. The last three kubeadm asks for
/// itself (its preflight, 1.36), but only once the node was drained and torn down.
pub(super) const NEEDS: &[&str] =
    &["kubeadm", "kubelet", "systemctl", "ip", "mount", "losetup", "cp"];
/// Where a reset writes besides its journal: configuration, the kubelet's data and the runtime's.
pub(super) const WRITES: &[&str] = &["/etc", "/var/lib/kubelet", "/var/lib/containerd"];
/// The first minor version of kubeadm that reads the configuration format v1beta4.
const FIRST_V1BETA4: u32 = 31;
/// kubelets may be this many minor versions older than the API server (Kubernetes' version skew policy).
const SKEW_MAX: u32 = 3;
/// Stands for the list of taints until the script knows whether there are any.
const TAINTS: &str = "@TAINTS@";
/// Where the runtime's limits stand.
const RUNTIME_DROP_IN: &str = "/etc/systemd/system/containerd.service.d/90-evenkeel.conf";

/// What pod networks leave in the kernel: the links of the usual ones, and rules in the chains of kube-proxy and CNI.
/// The links' names are those of bridge, flannel, Calico, Cilium, kube-router and of kube-proxy in IPVS mode.
const NETWORK_LEFTOVERS: &str = "for link in cni0 flannel.1 flannel-v6.1 vxlan.calico cilium_host cilium_vxlan kube-bridge kube-ipvs0; do
  if ip link show \"$link\" > /dev/null 2>&1; then ip link delete \"$link\"; fi
done
for tables in iptables ip6tables; do
  if command -v \"$tables-save\" > /dev/null 2>&1 && rules=$(\"$tables-save\" 2> /dev/null) &&
    printf '%s\\n' \"$rules\" | grep -q -e KUBE- -e CNI-; then
    printf '%s\\n' \"$rules\" | grep -v -e KUBE- -e CNI- | \"$tables-restore\"
  fi
done
";
/// Images and what is left of containers. Another runtime's are for the pre-install script.
const RUNTIME_DATA: &str =
    "if systemctl is-active --quiet containerd && [ -d /var/lib/containerd ]; then
  systemctl stop containerd
  find /var/lib/containerd -xdev -mindepth 1 -delete
  systemctl start containerd
fi
";

/// Takes Kubernetes off the host. Running it again is harmless.
pub(super) fn teardown(recipe: &Kubeadm, retain_volumes: bool) -> String {
    let mut script = String::from("#!/bin/sh\nset -eu\nkubeadm reset --force");
    if let Some(socket) = &recipe.cri_socket {
        script.push_str(&format!(" --cri-socket {}", quoted(socket)));
    }
    script.push_str(
        "\n# What kubeadm leaves: network configuration, certificates and state of the kubelet.\n\
         rm -rf /etc/cni/net.d/* /var/lib/cni/* /etc/kubernetes/pki /etc/kubernetes/*.conf\n\
         for path in /var/lib/kubelet/* /var/lib/kubelet/.[!.]*; do\n  \
         if [ -e \"$path\" ]; then rm -rf --one-file-system \"$path\"; fi\ndone\n",
    );
    script.push_str(NETWORK_LEFTOVERS);
    if !retain_volumes {
        script.push_str(RUNTIME_DATA);
        for dir in &recipe.data_dirs {
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
    recipe: &Kubeadm,
    node: &NodeName,
    ticket: &Ticket,
    version: &str,
    pool: &NodeConfig,
) -> SecretString {
    let mut script = String::from(
        "#!/bin/sh\nset -eu\numask 077\ndir=$(mktemp -d /run/evenkeel-join.XXXXXX)\ntrap 'rm -rf \"$dir\"' EXIT\n\
         mkdir \"$dir/patches\"\n",
    );
    script.push_str(&runtime_limits(&pool.containerd));
    script.push_str(&startup_taint());
    script.push_str(&file("discovery.conf", &discovery(recipe, ticket).to_string()));
    let config = join_configuration(recipe, node, ticket, version);
    script.push_str(&file("join.json", &config.to_string()));
    if !pool.kubelet.is_empty() {
        let patch = Value::Object(pool.kubelet.clone()).to_string();
        script.push_str(&file("patches/kubeletconfiguration0+merge.json", &patch));
    }
    script.push_str("kubeadm join --config \"$dir/join.json\"\n");
    // The taint is for this join alone: a kubelet that registers anew later, without us, must not bring it back.
    script.push_str(
        "sed -i 's/ *--register-with-taints=[^ \"]*//' /var/lib/kubelet/kubeadm-flags.env\n",
    );
    SecretString::from(script)
}

fn discovery(recipe: &Kubeadm, ticket: &Ticket) -> Value {
    let server = match &recipe.endpoint {
        Some(endpoint) => format!("https://{endpoint}"),
        None => ticket.server.clone(),
    };
    let mut cluster = json!({"server": server});
    if let Some(ca) = &ticket.ca_data {
        cluster["certificate-authority-data"] = Value::from(ca.as_str());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "contexts": [{"name": "join", "context": {"cluster": "cluster", "user": "join"}}],
        "current-context": "join",
        "users": [{"name": "join", "user": {}}],
    })
}

fn join_configuration(recipe: &Kubeadm, node: &NodeName, ticket: &Ticket, version: &str) -> Value {
    let format = match minor(version) {
        Some(minor) if minor < FIRST_V1BETA4 => "kubeadm.k8s.io/v1beta3",
        _ => "kubeadm.k8s.io/v1beta4",
    };
    let mut registration = json!({"name": node, "taints": TAINTS});
    if let Some(socket) = &recipe.cri_socket {
        registration["criSocket"] = Value::from(socket.as_str());
    }
    if !recipe.ignore_preflight.is_empty() {
        registration["ignorePreflightErrors"] = json!(recipe.ignore_preflight);
    }
    json!({
        "apiVersion": format,
        "kind": "JoinConfiguration",
        "discovery": {
            "file": {"kubeConfigPath": "@DIR@/discovery.conf"},
            "tlsBootstrapToken": ticket.token.expose_secret(),
        },
        "nodeRegistration": registration,
        "patches": {"directory": "@DIR@/patches"},
    })
}

/// A Node that this join makes anew is kept free of pods until it is released. A kubelet of an external cloud
/// provider brings a taint of this key itself, and an API server takes no key twice.
fn startup_taint() -> String {
    let taint = json!([{"key": STARTUP_TAINT, "value": STARTUP_VALUE, "effect": STARTUP_EFFECT}]);
    format!(
        "taints='{taint}'\n\
         if grep -qs -e '--cloud-provider=external' /etc/default/kubelet /etc/sysconfig/kubelet \
         /etc/systemd/system/kubelet.service.d/*.conf /usr/lib/systemd/system/kubelet.service.d/*.conf; \
         then taints='[]'; fi\n"
    )
}

/// Limits of the runtime, which its containers inherit: a drop-in of our own, which goes again with the setting.
fn runtime_limits(limits: &BTreeMap<String, String>) -> String {
    let mut wanted = String::new();
    if !limits.is_empty() {
        wanted.push_str("[Service]");
        for (name, value) in limits {
            wanted.push_str(&format!("\n{name}={value}"));
        }
    }
    format!(
        "unit={RUNTIME_DROP_IN}\nwanted='{wanted}'\n\
         if [ \"$(cat \"$unit\" 2> /dev/null || true)\" != \"$wanted\" ]; then\n  \
         if [ -n \"$wanted\" ]; then mkdir -p \"${{unit%/*}}\"; printf '%s\\n' \"$wanted\" > \"$unit\"; else rm -f \"$unit\"; fi\n  \
         systemctl daemon-reload\n  systemctl restart containerd\nfi\n"
    )
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

/// Writes a file of one line; the private directory and the taints are filled in by sed, which sees no secret in argv.
fn file(name: &str, content: &str) -> String {
    format!(
        "sed \"s|@DIR@|$dir|g;s|\\\"{TAINTS}\\\"|$taints|\" > \"$dir/{name}\" <<'EVENKEEL-END'\n{content}\nEVENKEEL-END\n"
    )
}

/// A word for `sh`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
