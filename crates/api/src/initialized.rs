//! `initializedConditions`: conditions of a Node that somebody sets to True once the node is initialized.
//!
//! Entry points: [`check_conditions`] for a request, [`InitializedCondition::parse`] for one entry.
//! Deliberately absent: the waiting.

use crate::json::At;
use crate::violation::Violation;

/// Most conditions of a pool (documented).
const CONDITION_LIMIT: usize = 2;

/// Longest name of a condition (documented), of letters and digits.
const NAME_LIMIT: usize = 20;

/// Longest wait that an entry may ask for: a day, as for any step on a host.
const WAIT_LIMIT_S: u64 = 86_400;

/// One entry, such as `NetworkReady` or `NetworkReady:15m`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitializedCondition {
    pub name: String,
    /// How long it may take until it is True; the server's own limit where the entry has none.
    pub limit_s: Option<u64>,
}

impl InitializedCondition {
    /// `None` if it is no entry.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, limit) = match text.split_once(':') {
            Some((name, limit)) => (name, Some(limit)),
            None => (text, None),
        };
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric());
        if name.is_empty() || name.len() > NAME_LIMIT || !plain {
            return None;
        }
        let limit_s = match limit {
            Some(limit) => Some(seconds(limit)?),
            None => None,
        };
        Some(Self { name: name.to_owned(), limit_s })
    }
}

/// `90s`, `15m` or `1h`.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let whole = digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| whole)?;
    count.checked_mul(unit).filter(|s| (1..=WAIT_LIMIT_S).contains(s))
}

/// The entries of a template.
pub(crate) fn check_conditions(
    list: &At<'_>,
    found: &mut Vec<Violation>,
) -> Vec<InitializedCondition> {
    let items = list.items(found).unwrap_or_default();
    if items.len() > CONDITION_LIMIT {
        let rule = format!("has {} conditions, at most {CONDITION_LIMIT} are allowed", items.len());
        found.push(Violation::new(list.path.clone(), rule));
    }
    let mut conditions: Vec<InitializedCondition> = Vec::new();
    for at in &items {
        let Some(text) = at.string(found) else { continue };
        match InitializedCondition::parse(text) {
            None => {
                let violation = at.violation(
                    "is not a condition: 1 to 20 letters and digits, then perhaps a limit up to a day, as in :15m",
                );
                found.push(
                    violation.with_way_out("send it such as NetworkReady or NetworkReady:15m"),
                );
            }
            Some(new) if conditions.iter().any(|known| known.name == new.name) => {
                found.push(at.violation("names a condition for the second time"));
            }
            Some(new) => conditions.push(new),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_are_names_with_perhaps_a_limit() {
        let rows = [
            ("NetworkReady", Some(("NetworkReady", None))),
            ("Net1:15m", Some(("Net1", Some(900)))),
            ("Net:90s", Some(("Net", Some(90)))),
            ("Net:24h", Some(("Net", Some(86_400)))),
            ("Net:25h", None),
            ("Net:0m", None),
            ("Net:15", None),
            ("Net:m", None),
            ("Net:+5m", None),
            ("Net:", None),
            ("", None),
            (":15m", None),
            ("Net-Ready", None),
            ("ANameOfTwentyOneChars", None),
        ];
        for (text, expected) in rows {
            let parsed = InitializedCondition::parse(text);
            let found = parsed.as_ref().map(|c| (c.name.as_str(), c.limit_s));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn lists_are_short_and_without_repetition() {
        let rows = [
            (json!(["A", "B:15m"]), 0),
            (json!([]), 0),
            (json!(["A", "B", "C"]), 1),
            (json!(["A", "A:15m"]), 1),
            (json!(["A", 5]), 1),
            (json!("A"), 1),
            (json!(["a b"]), 1),
        ];
        for (value, violations) in rows {
            let mut found = Vec::new();
            check_conditions(&At { path: "x".into(), value: &value }, &mut found);
            assert_eq!(found.len(), violations, "{value}: {found:?}");
        }
    }
}
