//! The part behind the `?`. Keys are matched without regard to case, because one official client signs them in lower
//! case.

use std::collections::BTreeMap;

use axum::http::Uri;
use evenkeel_api::Violation;
use serde_json::Value;

use super::error::ApiError;

/// Query parameters by lower-case key.
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads them; a key that is given twice is refused.
    pub(super) fn read(uri: &Uri) -> Result<Self, ApiError> {
        let pairs =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
                ApiError::invalid(Violation::new("the query", "is not a list of key=value"))
            })?;
        let mut known = BTreeMap::new();
        for (key, value) in pairs.0 {
            if known.insert(key.to_lowercase(), value).is_some() {
                return Err(ApiError::invalid(Violation::new(key, "is given twice in the query")));
            }
        }
        Ok(Self(known))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_lowercase()).map(String::as_str)
    }

    /// `true` or `false`, in any case; absent and empty are false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.get(key).map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(wrong(key, other, "is not true or false")),
        }
    }

    /// A whole number in a range.
    pub(super) fn number(
        &self,
        key: &str,
        min: u64,
        max: u64,
        default: u64,
    ) -> Result<u64, ApiError> {
        let Some(text) = self.get(key) else {
            return Ok(default);
        };
        let number = text.parse::<u64>().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| wrong(key, text, &format!("is not an integer from {min} to {max}")))
    }
}

fn wrong(key: &str, value: &str, rule: &str) -> ApiError {
    ApiError::invalid(Violation::new(key, rule).with_value(&Value::from(value)))
}
