//! Parameters of kubelet and container runtime that a pool sets: `.../nodepools/{id}/configuration`.
//!
//! Entry points: [`ConfigurationUpdate::parse`], [`Configuration::of`], [`detail`], [`overrides`].
//! Deliberately absent: where a parameter goes on a host, and every component that is configured for
//! a whole cluster.

mod catalogue;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use catalogue::{Kind, PARAMETERS, Parameter};

use crate::json::{At, parse_request};
use crate::node::check_envelope;
use crate::nodepool::api_version;
use crate::violation::Violation;

/// What is set, by package and name. Lists stand as lists, whatever form they came in.
pub type Settings = BTreeMap<String, BTreeMap<String, Value>>;

fn kind() -> String {
    "Configuration".to_owned()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[serde(default = "kind")]
    pub kind: String,
    #[serde(default = "api_version")]
    pub api_version: String,
    pub metadata: ConfigurationMetadata,
    pub spec: ConfigurationSpec,
    #[serde(default)]
    pub status: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationMetadata {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationSpec {
    pub packages: Vec<Package>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub configurations: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    pub value: Value,
}

impl Configuration {
    /// The answer for a pool: what is set, and nothing else.
    pub fn of(pool: &str, settings: &Settings) -> Self {
        let item =
            |(name, value): (&String, &Value)| Item { name: name.clone(), value: value.clone() };
        let package = |(name, items): (&String, &BTreeMap<String, Value>)| Package {
            name: name.clone(),
            configurations: items.iter().map(item).collect(),
        };
        Self {
            kind: kind(),
            api_version: api_version(),
            metadata: ConfigurationMetadata {
                name: "configuration".to_owned(),
                labels: BTreeMap::from([("nodepool_id".to_owned(), pool.to_owned())]),
            },
            spec: ConfigurationSpec { packages: settings.iter().map(package).collect() },
            status: BTreeMap::new(),
        }
    }
}

/// One parameter that a pool may set, as `configuration/detail` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageOption {
    pub name: String,
    /// What holds if nobody sets it.
    pub default: Value,
    /// `immediately`: it may be changed at any time (and reaches a node with its next synchronization).
    pub valid_at: String,
    pub empty: bool,
    pub schema: String,
    /// `str`, `int` or `bool`.
    #[serde(rename = "type")]
    pub value_type: String,
}

/// Every parameter that a pool may set, by package.
pub fn detail() -> BTreeMap<&'static str, Vec<PackageOption>> {
    let mut packages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for parameter in PARAMETERS {
        packages.entry(parameter.package).or_default().push(PackageOption {
            name: parameter.name.to_owned(),
            default: parameter.default(),
            valid_at: "immediately".to_owned(),
            empty: false,
            schema: parameter.schema().clone(),
            value_type: parameter.kind.word().to_owned(),
        });
    }
    packages
}

/// A change of settings. What it does not name stays.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigurationUpdate {
    /// Package, name and value; `None` goes back to the default.
    changes: Vec<(&'static Parameter, Option<Value>)>,
}

impl ConfigurationUpdate {
    /// Reads a body. A parameter that no recipe can bring to a host is refused.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let request = parse_request(body)?;
        let mut found = Vec::new();
        let root = At::root(&request);
        check_envelope(&root, "Configuration", &mut found);
        let mut changes: Vec<(&'static Parameter, Option<Value>)> = Vec::new();
        let packages = root.get("spec").and_then(|spec| spec.get("packages"));
        match packages.and_then(|at| at.items(&mut found)) {
            Some(packages) => {
                for package in &packages {
                    read_package(package, &mut changes, &mut found);
                }
            }
            None if found.is_empty() => {
                found.push(Violation::new("spec.packages", "is mandatory, as a list"));
            }
            None => {}
        }
        if found.is_empty() { Ok(Self { changes }) } else { Err(found) }
    }

    /// The settings with the changes in them; or which of them do not go together.
    pub fn apply(&self, settings: &Settings) -> Result<Settings, Violation> {
        let mut after = settings.clone();
        for (parameter, value) in &self.changes {
            let package = after.entry(parameter.package.to_owned()).or_default();
            match value {
                Some(value) => package.insert(parameter.name.to_owned(), value.clone()),
                None => package.remove(parameter.name),
            };
        }
        after.retain(|_, package| !package.is_empty());
        together(&after)?;
        Ok(after)
    }
}

/// Image garbage collection has to stop below where it starts.
fn together(settings: &Settings) -> Result<(), Violation> {
    let percent = |name: &str| {
        let set = settings.get("kubelet").and_then(|kubelet| kubelet.get(name)).cloned();
        set.or_else(|| Parameter::find("kubelet", name).map(Parameter::default))
            .and_then(|value| value.as_i64())
            .unwrap_or_default()
    };
    let (low, high) = (percent("image-gc-low-threshold"), percent("image-gc-high-threshold"));
    if low < high {
        return Ok(());
    }
    let rule = format!("is {low} and not below image-gc-high-threshold, {high}");
    let violation = Violation::new("kubelet image-gc-low-threshold", rule);
    Err(violation.with_way_out("set both in one call"))
}

fn read_package(
    package: &At<'_>,
    changes: &mut Vec<(&'static Parameter, Option<Value>)>,
    found: &mut Vec<Violation>,
) {
    let Some(name) = package.get("name").and_then(|at| at.string(found)) else {
        found.push(Violation::new(package.child_path("name"), "is mandatory"));
        return;
    };
    if let Some(way_out) = catalogue::foreign_package(name) {
        let violation =
            Violation::new(package.child_path("name"), "is not configured by a node pool here");
        found.push(violation.with_value(&Value::from(name)).with_way_out(way_out));
        return;
    }
    let items = package.get("configurations").and_then(|at| at.items(found));
    for item in items.unwrap_or_default() {
        let Some(key) = item.get("name").and_then(|at| at.string(found)) else {
            found.push(Violation::new(item.child_path("name"), "is mandatory"));
            continue;
        };
        let Some(parameter) = Parameter::find(name, key) else {
            let rule = format!("is not a parameter of {name} that a synchronization can bring");
            let violation = Violation::new(item.child_path("name"), rule);
            let way_out = catalogue::way_out(name, key);
            found.push(violation.with_value(&Value::from(key)).with_way_out(way_out));
            continue;
        };
        if changes.iter().any(|(known, _)| std::ptr::eq(*known, parameter)) {
            found.push(Violation::new(item.child_path("name"), format!("sets {key} twice")));
            continue;
        }
        // A null is a value here: back to the default.
        let value = item.get("value");
        match value.map(|at| parameter.read(&at, found)) {
            None => changes.push((parameter, None)),
            Some(Some(value)) => changes.push((parameter, Some(value))),
            Some(None) => {}
        }
    }
}

/// The settings in a template's `configurationsOverride`. The service ignores there what it does not know, and so do
/// we.
pub fn overrides(list: &Value) -> Settings {
    let mut settings = Settings::new();
    let entries = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned();
    for package in list.as_array().into_iter().flatten() {
        let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
        for item in entries(package, "configurations").unwrap_or_default() {
            let key = item.get("name").and_then(Value::as_str).unwrap_or_default();
            let value = item.get("value").cloned().unwrap_or(json!(null));
            let at = At { path: String::new(), value: &value };
            let read = Parameter::find(name, key).and_then(|p| p.read(&at, &mut Vec::new()));
            if let Some(value) = read {
                settings.entry(name.to_owned()).or_default().insert(key.to_owned(), value);
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests;
