//! Request bodies: strict about what could be read in two ways, lenient about spelling.
//!
//! Entry points: [`parse_request`] (bytes to a checked value), [`At`] (a value with the path that
//! leads to it, looked up without regard to case), [`typed`] (a checked value to a model).
//!
//! Why not plain serde: it stops at the first mistake, and of two keys that differ in case only it
//! silently takes one. Clients spell keys differently (`apiversion`, `RootVolume`), and a user gets
//! every mistake in one answer.
//!
//! Deliberately absent: a size limit. The server bounds the body before it is read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::violation::Violation;

/// Deepest nesting of a request. The deepest documented one (storage groups) has 9 levels.
pub const DEPTH_LIMIT: usize = 32;

/// Objects whose keys are the user's own words: there `App` and `app` are two keys.
const FREE_MAPS: &[&str] = &["k8stags", "annotations", "labels", "matchlabels", "value"];

fn is_free_map(key: &str) -> bool {
    FREE_MAPS.iter().any(|free| free.eq_ignore_ascii_case(key))
}

/// Reads a request body that has to be one JSON object: nothing behind it, no key twice (also not
/// in another case), at most [`DEPTH_LIMIT`] levels. Spelling is kept as the client wrote it.
pub fn parse_request(body: &[u8]) -> Result<Value, Vec<Violation>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        let violation = Violation::new("body", "is empty")
            .with_way_out("send a JSON object, as documented for this call");
        return Err(vec![violation]);
    }
    let state = RefCell::new(State::default());
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = Strict { state: &state, depth: 0, free: false }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    let State { mut violations, .. } = state.into_inner();
    match parsed {
        Ok(value) if violations.is_empty() && value.is_object() => Ok(value),
        Ok(value) => {
            if !value.is_object() {
                violations.push(Violation::new("body", "is not a JSON object"));
            }
            Err(violations)
        }
        Err(error) => {
            violations.push(Violation::new("body", format!("is not valid JSON: {error}")));
            Err(violations)
        }
    }
}

#[derive(Default)]
struct State {
    path: Vec<String>,
    violations: Vec<Violation>,
}

/// Builds a value and notes what serde_json would pass over in silence.
struct Strict<'a> {
    state: &'a RefCell<State>,
    depth: usize,
    free: bool,
}

impl<'a> Strict<'a> {
    fn below(&self, free: bool) -> Strict<'a> {
        Strict { state: self.state, depth: self.depth + 1, free: self.free || free }
    }

    fn check_depth<E: de::Error>(&self) -> Result<(), E> {
        if self.depth >= DEPTH_LIMIT {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_LIMIT} levels")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut items = Vec::new();
        loop {
            self.state.borrow_mut().path.push(format!("[{}]", items.len()));
            let next = seq.next_element_seed(self.below(false));
            self.state.borrow_mut().path.pop();
            match next? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut object = Map::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let folded = if self.free { key.clone() } else { key.to_ascii_lowercase() };
            self.state.borrow_mut().path.push(key.clone());
            if let Some(first) = seen.insert(folded, key.clone()) {
                let mut state = self.state.borrow_mut();
                let rule = if first == key {
                    "is given twice".to_owned()
                } else {
                    format!("is given twice, also as `{first}`")
                };
                let violation = Violation::new(path_text(&state.path), rule)
                    .with_way_out("keys are compared without regard to case; send it once");
                state.violations.push(violation);
            }
            let value = map.next_value_seed(self.below(is_free_map(&key)));
            self.state.borrow_mut().path.pop();
            object.insert(key, value?);
        }
        Ok(Value::Object(object))
    }
}

fn path_text(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if !text.is_empty() && !part.starts_with('[') {
            text.push('.');
        }
        text.push_str(part);
    }
    text
}

/// Gives known keys their canonical spelling, at every depth. Maps of the user's own words are
/// left alone, unknown keys keep their spelling. Two spellings of one key cannot meet here:
/// [`parse_request`] has refused them.
pub fn canonical_keys(value: &mut Value, known: &[&str]) {
    let spelling: BTreeMap<String, &str> =
        known.iter().map(|key| (key.to_ascii_lowercase(), *key)).collect();
    respell(value, &spelling);
}

fn respell(value: &mut Value, spelling: &BTreeMap<String, &str>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| respell(item, spelling)),
        Value::Object(object) => {
            for (key, mut inner) in std::mem::take(object) {
                if !is_free_map(&key) {
                    respell(&mut inner, spelling);
                }
                let canonical = spelling.get(&key.to_ascii_lowercase());
                object.insert(canonical.map_or(key, |key| (*key).to_owned()), inner);
            }
        }
        _ => {}
    }
}

/// Turns a checked request into a model. A wrong type is reported with the path as the client
/// wrote it; the value is not quoted, because it may be a secret.
pub fn typed<T: DeserializeOwned>(request: &Value, known: &[&str]) -> Result<T, Vec<Violation>> {
    let mut canonical = request.clone();
    canonical_keys(&mut canonical, known);
    serde_path_to_error::deserialize(canonical).map_err(|error| {
        let field = as_written(request, error.path().iter());
        let text = error.inner().to_string();
        let rule = match text.rsplit_once("expected ") {
            // Names of our types tell a client nothing.
            Some((_, expected)) if expected.starts_with("struct ") => {
                "has the wrong type; expected a JSON object".to_owned()
            }
            Some((_, expected)) => format!("has the wrong type; expected {expected}"),
            None if text.starts_with("missing field") => format!("lacks a field: {text}"),
            None => "has the wrong type".to_owned(),
        };
        vec![Violation::new(field, rule)]
    })
}

fn as_written<'a>(request: &Value, path: impl Iterator<Item = &'a Segment>) -> String {
    let mut here = Some(request);
    let mut parts = Vec::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                parts.push(format!("[{index}]"));
                here = here.and_then(|value| value.get(index));
            }
            Segment::Map { key } => {
                let found = here.and_then(|value| find(value, key));
                parts.push(found.map_or_else(|| key.clone(), |(written, _)| written.to_owned()));
                here = found.map(|(_, value)| value);
            }
            Segment::Enum { variant } => parts.push(variant.clone()),
            Segment::Unknown => {}
        }
    }
    if parts.is_empty() { "body".to_owned() } else { path_text(&parts) }
}

/// Exact spelling first, then any spelling.
fn find<'a>(value: &'a Value, key: &str) -> Option<(&'a str, &'a Value)> {
    let object = value.as_object()?;
    let exact = object.get_key_value(key);
    let found = exact.or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)));
    found.map(|(name, value)| (name.as_str(), value))
}

/// A value of a request and the path that leads to it, spelled as the client spelled it.
/// The readers note a violation and give `None` if the type is wrong.
#[derive(Debug, Clone)]
pub struct At<'a> {
    pub path: String,
    pub value: &'a Value,
}

impl<'a> At<'a> {
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// The field of this name in any case. `null` counts as absent: Terraform sends it for what it
    /// does not set.
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        let (written, value) = find(self.value, key)?;
        (!value.is_null()).then(|| At { path: self.child_path(written), value })
    }

    /// Where this field would be, for the report of its absence.
    pub fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn violation(&self, rule: impl Into<String>) -> Violation {
        Violation::new(self.path.clone(), rule).with_value(self.value)
    }

    pub fn string(&self, found: &mut Vec<Violation>) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            found.push(self.violation("is not a string"));
        }
        text
    }

    pub fn boolean(&self, found: &mut Vec<Violation>) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            found.push(self.violation("is not true or false"));
        }
        flag
    }

    pub fn integer(&self, min: i64, max: i64, found: &mut Vec<Violation>) -> Option<i64> {
        let number = self.value.as_i64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            found.push(self.violation(format!("is not an integer from {min} to {max}")));
        }
        number
    }

    pub fn one_of(&self, allowed: &[&str], found: &mut Vec<Violation>) -> Option<&'a str> {
        let text = self.string(found)?;
        if allowed.contains(&text) {
            return Some(text);
        }
        found.push(self.violation(format!("is not one of {}", allowed.join(", "))));
        None
    }

    /// The object itself, for [`At::get`] on it.
    pub fn object(&self, found: &mut Vec<Violation>) -> Option<At<'a>> {
        if self.value.is_object() {
            return Some(self.clone());
        }
        // Not quoted: where an object belongs, a client may have put the secret itself.
        found.push(Violation::new(self.path.clone(), "is not a JSON object"));
        None
    }

    /// The fields of an object, spelled as written. Empty for anything else.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        let path = self.path.clone();
        self.value.as_object().into_iter().flatten().map(move |(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            (key.as_str(), At { path, value })
        })
    }

    pub fn items(&self, found: &mut Vec<Violation>) -> Option<Vec<At<'a>>> {
        let Some(items) = self.value.as_array() else {
            found.push(Violation::new(self.path.clone(), "is not a list"));
            return None;
        };
        let at = |(index, value)| At { path: format!("{}[{index}]", self.path), value };
        Some(items.iter().enumerate().map(at).collect())
    }
}
