//! The parameters: names and ranges as CCE's user guide lists them ("Modifying Node Pool Configurations"), as far as a
//! kubelet of upstream Kubernetes and a containerd know them. Defaults are upstream's.

use serde_json::{Value, json};

use crate::json::At;
use crate::violation::Violation;

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer between these.
    Whole(i64, i64),
    /// True or false.
    Flag,
    /// One of these.
    Word(&'static [&'static str]),
    /// An absolute path.
    Path,
    /// A duration of Go, such as `2m0s`.
    Duration,
    /// Names, as a list or with commas in between.
    Names,
    /// A limit, or `soft:hard`.
    Limit,
}

impl Kind {
    /// The word of `configuration/detail`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Whole(..) => "int",
            Kind::Flag => "bool",
            Kind::Word(_) | Kind::Path | Kind::Duration | Kind::Names | Kind::Limit => "str",
        }
    }
}

/// What holds if nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unset {
    Whole(i64),
    Flag(bool),
    Text(&'static str),
    /// The host decides.
    Nothing,
}

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// `kubelet` or `containerd`.
    pub package: &'static str,
    /// CCE's name.
    pub name: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    unset: Unset,
}

const fn kubelet(name: &'static str, kind: Kind, unset: Unset) -> Parameter {
    Parameter { package: "kubelet", name, kind, unset }
}

const fn containerd(name: &'static str, kind: Kind, unset: Unset) -> Parameter {
    Parameter { package: "containerd", name, kind, unset }
}

/// Where the guide names no bound: what a 32-bit field takes.
const MOST: i64 = i32::MAX as i64;
/// 1 TiB: more MiB than a machine has are a unit mistake.
const MOST_MIB: i64 = 1024 * 1024;

/// Every parameter that a synchronization can bring to a host.
pub const PARAMETERS: &[Parameter] = &[
    kubelet("cpu-manager-policy", Kind::Word(&["none", "static"]), Unset::Text("none")),
    kubelet("kube-api-qps", Kind::Whole(1, MOST), Unset::Whole(50)),
    kubelet("kube-api-burst", Kind::Whole(1, MOST), Unset::Whole(100)),
    kubelet("max-pods", Kind::Whole(16, 1024), Unset::Whole(110)),
    kubelet("pod-pids-limit", Kind::Whole(-1, MOST), Unset::Whole(-1)),
    kubelet("event-qps", Kind::Whole(0, MOST), Unset::Whole(50)),
    kubelet("event-burst", Kind::Whole(1, MOST), Unset::Whole(100)),
    kubelet("allowed-unsafe-sysctls", Kind::Names, Unset::Text("")),
    kubelet(
        "topology-manager-policy",
        Kind::Word(&["none", "best-effort", "restricted", "single-numa-node"]),
        Unset::Text("none"),
    ),
    kubelet("topology-manager-scope", Kind::Word(&["container", "pod"]), Unset::Text("container")),
    kubelet("resolv-conf", Kind::Path, Unset::Nothing),
    kubelet("runtime-request-timeout", Kind::Duration, Unset::Text("2m0s")),
    kubelet("serialize-image-pulls", Kind::Flag, Unset::Flag(true)),
    kubelet("registry-pull-qps", Kind::Whole(1, 50), Unset::Whole(5)),
    kubelet("registry-burst", Kind::Whole(1, 100), Unset::Whole(10)),
    kubelet("container-log-max-files", Kind::Whole(2, 100), Unset::Whole(5)),
    kubelet("container-log-max-size", Kind::Whole(1, 4096), Unset::Whole(10)),
    kubelet("image-gc-high-threshold", Kind::Whole(1, 100), Unset::Whole(85)),
    kubelet("image-gc-low-threshold", Kind::Whole(1, 100), Unset::Whole(80)),
    kubelet("kube-reserved-mem", Kind::Whole(0, MOST_MIB), Unset::Nothing),
    kubelet("system-reserved-mem", Kind::Whole(0, MOST_MIB), Unset::Nothing),
    containerd("limitcore", Kind::Limit, Unset::Nothing),
    containerd("default-ulimit-nofile", Kind::Limit, Unset::Nothing),
];

/// Packages that a node pool does not configure here, and who does.
pub(super) fn foreign_package(name: &str) -> Option<&'static str> {
    match name {
        "kubelet" | "containerd" => None,
        "kube-proxy" => Some(
            "kube-proxy has one configuration for the whole cluster: the ConfigMap kube-proxy in kube-system",
        ),
        "docker" => Some("set it in preInstall, or use containerd"),
        _ => Some("the packages of a node pool are kubelet and containerd"),
    }
}

/// What to do about a parameter that no recipe brings.
pub(super) fn way_out(package: &str, name: &str) -> &'static str {
    match (package, name) {
        ("kubelet", "with-local-dns") => {
            "run NodeLocal DNSCache, and name its address with resolv-conf"
        }
        ("kubelet", "over-subscription-resource" | "colocation") => {
            "only CCE's own kubelet has it: leave it out"
        }
        ("containerd", _) => {
            "change containerd's own configuration in preInstall, before the node joins"
        }
        _ => "configuration/detail lists those that can be set",
    }
}

impl Parameter {
    /// The parameter of this name.
    pub fn find(package: &str, name: &str) -> Option<&'static Parameter> {
        PARAMETERS.iter().find(|p| p.package == package && p.name == name)
    }

    /// What holds if nobody sets it; null where the host decides.
    pub fn default(&self) -> Value {
        match self.unset {
            Unset::Whole(number) => json!(number),
            Unset::Flag(flag) => json!(flag),
            Unset::Text(text) => json!(text),
            Unset::Nothing => Value::Null,
        }
    }

    /// The values it takes, for people.
    pub(super) fn schema(&self) -> String {
        match self.kind {
            Kind::Whole(low, high) => format!("{low} to {high}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Word(words) => words.join(", "),
            Kind::Path => "an absolute path".to_owned(),
            Kind::Duration => "a duration such as 2m0s".to_owned(),
            Kind::Names => "names with commas in between".to_owned(),
            Kind::Limit => "a number, or soft:hard".to_owned(),
        }
    }

    /// The value in the form in which it is kept.
    pub(super) fn read(&self, at: &At<'_>, found: &mut Vec<Violation>) -> Option<Value> {
        match self.kind {
            Kind::Whole(low, high) => at.integer(low, high, found).map(Value::from),
            Kind::Flag => at.boolean(found).map(Value::from),
            Kind::Word(words) => at.one_of(words, found).map(Value::from),
            Kind::Path => {
                let fits = |text: &str| text.starts_with('/') && !text.contains(char::is_control);
                checked(at, fits, "is not an absolute path", found)
            }
            Kind::Duration => checked(at, is_duration, "is not a duration such as 2m0s", found),
            Kind::Names => names(at, found),
            Kind::Limit => {
                let whole = at.value.as_u64().map(|number| number.to_string());
                let text = whole.or_else(|| at.value.as_str().map(str::to_owned));
                let limit = text.filter(|text| is_limit(text));
                if limit.is_none() {
                    found.push(at.violation("is not a limit: a number, or soft:hard"));
                }
                limit.map(Value::from)
            }
        }
    }
}

fn checked(
    at: &At<'_>,
    fits: impl Fn(&str) -> bool,
    rule: &str,
    found: &mut Vec<Violation>,
) -> Option<Value> {
    let text = at.string(found)?;
    if fits(text) {
        return Some(Value::from(text));
    }
    found.push(at.violation(rule));
    None
}

/// Names of sysctls: `net.core.somaxconn`, or a group as in `kernel.msg*`.
fn names(at: &At<'_>, found: &mut Vec<Violation>) -> Option<Value> {
    let all: Option<Vec<&str>> = match at.value {
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect())
        }
        Value::Array(items) => items.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./*".contains(&b);
    let fits = |name: &&str| !name.is_empty() && name.bytes().all(plain);
    match all.filter(|all| all.iter().all(fits)) {
        Some(all) => Some(json!(all)),
        None => {
            found.push(at.violation("is not a list of names"));
            None
        }
    }
}

/// Digits with units, as Go reads them: `1h30m`, `90s`, `250ms`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let after = &rest[digits..];
        let unit = ["ms", "h", "m", "s"].into_iter().find(|unit| after.starts_with(unit));
        match unit {
            Some(unit) if (1..=9).contains(&digits) => rest = &after[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

fn is_limit(text: &str) -> bool {
    let number = |part: &str| {
        part == "infinity"
            || (!part.is_empty() && part.len() <= 19 && part.bytes().all(|b| b.is_ascii_digit()))
    };
    match text.split_once(':') {
        Some((soft, hard)) => number(soft) && number(hard),
        None => number(text),
    }
}
