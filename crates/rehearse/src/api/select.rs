//! Query parameters, field selectors and label selectors.

use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::selector::{Requirement, Selector};
use evenkeel_sim::objects::Map as Labels;
use evenkeel_sim::status::Refusal;
use std::collections::BTreeMap;

/// The decoded query of a request; of a repeated key the first value counts, as in Go.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        let mut map = BTreeMap::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(unescape(key)).or_insert_with(|| unescape(value));
        }
        Self(map)
    }

    /// The value, if it is there and not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `true` or `1`.
    pub(super) fn is(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// A number; 0 if it is absent.
    pub(super) fn number(&self, key: &str) -> Result<u64, Refusal> {
        let Some(text) = self.get(key) else {
            return Ok(0);
        };
        text.parse().map_err(|_| {
            Refusal::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })
    }
}

/// A resourceVersion; if it is none, Go's words for that.
pub(super) fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |range| text.get(range).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex(at + 1..at + 3)) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What of a kind is meant.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    namespace: Option<String>,
    fields: Vec<(String, bool, String)>,
    labels: Selector,
}

/// The fields of an object that selectors may name.
pub(super) struct Fields<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) others: Vec<(&'static str, String)>,
    pub(super) labels: &'a Labels,
}

impl<'a> Fields<'a> {
    pub(super) fn of_key(key: &'a ObjectKey, labels: &'a Labels) -> Self {
        Self { name: &key.name, namespace: &key.namespace, others: Vec::new(), labels }
    }
}

impl Filter {
    /// Reads the selectors of a query; `known` are the kind's own selectable fields.
    pub(super) fn read(
        query: &Query,
        namespace: Option<&str>,
        known: &[&str],
    ) -> Result<Self, Refusal> {
        let mut fields = Vec::new();
        let terms = query.get("fieldSelector").unwrap_or_default();
        for term in terms.split(',').filter(|term| !term.is_empty()) {
            let (key, equal, value) = if let Some((key, value)) = term.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) =
                term.split_once("==").or_else(|| term.split_once('='))
            {
                (key, true, value)
            } else {
                let message = format!("invalid selector: '{term}'; can't understand '{term}'");
                return Err(Refusal::bad_request(message));
            };
            if !known.contains(&key) && !["metadata.name", "metadata.namespace"].contains(&key) {
                return Err(Refusal::bad_request(format!("field label not supported: {key}")));
            }
            fields.push((key.to_owned(), equal, value.to_owned()));
        }
        let labels = read_labels(query.get("labelSelector").unwrap_or_default())?;
        Ok(Self { namespace: namespace.map(str::to_owned), fields, labels })
    }

    /// Whether anything is left out.
    pub(super) fn selects(&self) -> bool {
        !self.fields.is_empty() || self.labels != Selector::All(vec![])
    }

    pub(super) fn holds(&self, object: &Fields<'_>) -> bool {
        let value = |key: &str| match key {
            "metadata.name" => object.name.to_owned(),
            "metadata.namespace" => object.namespace.to_owned(),
            key => object
                .others
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.clone())
                .unwrap_or_default(),
        };
        self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace)
            && self.fields.iter().all(|(key, equal, wanted)| (value(key) == *wanted) == *equal)
            && self.labels.matches(object.labels)
    }
}

/// Reads a label selector: `a=b,c!=d,e,!f,g in (x,y),h notin (z)`.
fn read_labels(text: &str) -> Result<Selector, Refusal> {
    let mut requirements = Vec::new();
    let mut depth = 0;
    let terms = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    for term in terms.map(str::trim).filter(|term| !term.is_empty()) {
        requirements.push(read_requirement(term).ok_or_else(|| {
            let found = term.split_whitespace().nth(1).unwrap_or(term);
            Refusal::bad_request(format!(
                "unable to parse requirement: found '{found}', expected: in, notin, =, ==, !=, gt, lt"
            ))
        })?);
    }
    Ok(Selector::All(requirements))
}

fn read_requirement(term: &str) -> Option<Requirement> {
    let set = |rest: &str| -> Option<Vec<String>> {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    if let Some((key, rest)) = term.split_once(" notin ") {
        return Some(Requirement::NotIn(key.trim().to_owned(), set(rest)?));
    }
    if let Some((key, rest)) = term.split_once(" in ") {
        return Some(Requirement::In(key.trim().to_owned(), set(rest)?));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some(Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    let word =
        |text: &str| (!text.is_empty() && !text.contains([' ', '(', ')'])).then(|| text.to_owned());
    match term.strip_prefix('!') {
        Some(key) => Some(Requirement::Absent(word(key)?)),
        None => Some(Requirement::Exists(word(term)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_kubectl_writes_them() {
        let labels = Labels::from([
            ("app".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "x".to_owned()),
        ]);
        let object = Fields {
            name: "p",
            namespace: "default",
            others: vec![("spec.nodeName", "node-1".to_owned())],
            labels: &labels,
        };
        let rows = [
            ("", true),
            ("fieldSelector=spec.nodeName%3Dnode-1", true),
            ("fieldSelector=spec.nodeName%3D%3Dnode-2", false),
            ("fieldSelector=spec.nodeName!%3D", true),
            ("fieldSelector=spec.nodeName%21%3Dnode-1%2Cmetadata.name%3Dp", false),
            ("labelSelector=app%3Dweb%2Ctier%21%3Dy", true),
            ("labelSelector=app+in+(a%2C+web)%2C!zone%2Ctier", true),
            ("labelSelector=app+notin+(web)", false),
        ];
        for (query, expected) in rows {
            let filter = Filter::read(&Query::parse(Some(query)), None, &["spec.nodeName"]);
            assert_eq!(filter.map(|f| f.holds(&object)), Ok(expected), "{query}");
        }
        let unknown = Filter::read(&Query::parse(Some("fieldSelector=spec.x%3D1")), None, &[]);
        assert_eq!(
            unknown.map_err(|r| r.message).err().as_deref(),
            Some("field label not supported: spec.x")
        );
    }
}
