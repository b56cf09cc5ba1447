//! Label selectors, as PodDisruptionBudgets and node affinities use them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One `matchExpressions` entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Requirement {
    /// The label's value is one of these.
    In(String, Vec<String>),
    /// The label is absent, or its value is none of these.
    NotIn(String, Vec<String>),
    /// The label is present.
    Exists(String),
    /// The label is absent.
    Absent(String),
    /// The label's value is an integer above this one (node affinity only).
    Above(String, i64),
    /// The label's value is an integer below this one (node affinity only).
    Below(String, i64),
    /// An operator that this version does not know: matches nothing.
    Unknown(String),
}

/// A label selector. In policy/v1 the empty selector covers every pod of the namespace, an absent one none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// No selector was given.
    Nothing,
    /// All of these must hold; an empty list matches everything.
    All(Vec<Requirement>),
}

impl Selector {
    /// Whether a pod with these labels is covered.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|r| r.holds(labels)),
        }
    }
}

impl Requirement {
    /// Whether it holds for these labels.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Above(key, than) => number(labels, key).is_some_and(|n| n > *than),
            Requirement::Below(key, than) => number(labels, key).is_some_and(|n| n < *than),
            Requirement::Unknown(_) => false,
        }
    }
}

fn number(labels: &BTreeMap<String, String>, key: &str) -> Option<i64> {
    labels.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_the_api_server_does() {
        let labels: BTreeMap<_, _> = [("app", "db"), ("tier", "back"), ("gen", "7")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let one = |k: &str, v: &str| Requirement::In(k.into(), vec![v.into()]);
        let rows = [
            (Selector::Nothing, false),
            (Selector::All(vec![]), true),
            (Selector::All(vec![one("app", "db")]), true),
            (Selector::All(vec![one("app", "web")]), false),
            (Selector::All(vec![one("app", "db"), one("tier", "front")]), false),
            (Selector::All(vec![Requirement::NotIn("app".into(), vec!["web".into()])]), true),
            (Selector::All(vec![Requirement::NotIn("zone".into(), vec!["a".into()])]), true),
            (Selector::All(vec![Requirement::Exists("tier".into())]), true),
            (Selector::All(vec![Requirement::Absent("tier".into())]), false),
            (Selector::All(vec![Requirement::Above("gen".into(), 6)]), true),
            (Selector::All(vec![Requirement::Above("gen".into(), 7)]), false),
            (Selector::All(vec![Requirement::Below("gen".into(), 8)]), true),
            (Selector::All(vec![Requirement::Below("app".into(), 8)]), false),
            (Selector::All(vec![Requirement::Unknown("Like".into())]), false),
        ];
        for (selector, expected) in rows {
            assert_eq!(selector.matches(&labels), expected, "{selector:?}");
        }
    }
}
