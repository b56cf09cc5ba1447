//! One broken rule of a request: which field, which value, which rule, and the way out.
//!
//! Entry point: [`Violation`]; [`join`] makes the text of one answer out of many.
//! Deliberately absent: an error code. Every violation is answered with CCE.01400001.

use std::fmt;

use serde_json::Value;

/// Longest piece of a value that is quoted back. Enough to recognise it in one's own request.
const QUOTE_LIMIT: usize = 64;

/// Most violations that one answer spells out, so that 10,000 bad ids stay readable.
const JOIN_LIMIT: usize = 20;

/// One broken rule. `Display` gives the sentence that the user reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON path with the keys spelled as the client spelled them, such as `spec.maxUnavailable`.
    pub field: String,
    /// The offending value, shortened. Never set for secrets.
    pub value: Option<String>,
    /// What is wrong, as a predicate: "is not an integer from 1 to 20".
    pub rule: String,
    /// What to do instead; empty if the rule says it all.
    pub way_out: String,
}

impl Violation {
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), value: None, rule: rule.into(), way_out: String::new() }
    }

    /// Quotes the value. Not for secrets.
    pub fn with_value(mut self, value: &Value) -> Self {
        self.value = Some(quote(value));
        self
    }

    pub fn with_way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = way_out.into();
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {} {}", self.field, value, self.rule)?,
            None => write!(f, "{} {}", self.field, self.rule)?,
        }
        if !self.way_out.is_empty() {
            write!(f, "; {}", self.way_out)?;
        }
        Ok(())
    }
}

/// All violations as one line of text, at most twenty spelled out.
pub fn join(violations: &[Violation]) -> String {
    let mut text =
        violations.iter().take(JOIN_LIMIT).map(ToString::to_string).collect::<Vec<_>>().join(". ");
    if violations.len() > JOIN_LIMIT {
        text.push_str(&format!(". And {} more", violations.len() - JOIN_LIMIT));
    }
    text
}

/// The value as JSON text, cut at a character boundary.
fn quote(value: &Value) -> String {
    let text = match value {
        Value::Array(_) => "the list".to_owned(),
        Value::Object(_) => "the object".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() <= QUOTE_LIMIT {
        return text;
    }
    let mut short: String = text.chars().take(QUOTE_LIMIT).collect();
    short.push_str("...");
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sentence_names_field_value_rule_and_way_out() {
        let violation = Violation::new("spec.maxUnavailable", "is not an integer from 1 to 20")
            .with_value(&json!(2.5));
        assert_eq!(
            violation.to_string(),
            "spec.maxUnavailable: 2.5 is not an integer from 1 to 20"
        );
        let missing = Violation::new("spec.nodePoolID", "is mandatory").with_way_out("send it");
        assert_eq!(missing.to_string(), "spec.nodePoolID is mandatory; send it");
    }

    #[test]
    fn long_values_and_long_lists_are_cut() {
        let violation = Violation::new("a", "is bad").with_value(&json!("é".repeat(500)));
        assert!(violation.to_string().chars().count() < 100);
        let many = vec![violation; 25];
        assert!(join(&many).ends_with("And 5 more"));
    }
}
