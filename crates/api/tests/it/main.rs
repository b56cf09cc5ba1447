//! The wire models and rules, driven from outside the crate with bodies as clients send them.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod json_rules;
mod login_rules;
mod pool_rules;
mod upgrade_rules;
mod wire;

use evenkeel_api::{ErrorBody, Violation};

/// Asserts that exactly one violation names `field`, that it contains `text`, and that the answer
/// made of all of them has the code of invalid requests.
fn assert_violation(found: &[Violation], field: &str, text: &str, row: &str) {
    let named: Vec<_> = found.iter().filter(|violation| violation.field == field).collect();
    assert_eq!(named.len(), 1, "{row}: want one violation of {field}, got {found:?}");
    let sentence = named[0].to_string();
    assert!(sentence.contains(text), "{row}: {sentence:?} lacks {text:?}");
    let body = ErrorBody::invalid(found);
    assert_eq!(body.error_code, "CCE.01400001");
    assert!(body.error_msg.contains(field), "{row}");
}
