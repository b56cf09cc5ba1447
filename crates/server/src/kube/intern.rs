//! One copy of what thousands of pods have in common: label sets, namespaces, owners, node names, needs.

use evenkeel_engine::ids::NodeName;
use evenkeel_engine::place::Needs;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A label set.
pub(super) type Labels = BTreeMap<String, String>;

/// Below this many entries a table is not worth cleaning.
const PRUNE_FLOOR: usize = 4096;

/// The tables. Entries that nobody uses any more are dropped whenever a table has doubled.
#[derive(Default)]
pub(super) struct Interner {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<Labels>>,
    needs: HashSet<Arc<Needs>>,
    sets: HashSet<Arc<BTreeSet<String>>>,
    nodes: HashMap<Box<str>, NodeName>,
    prune_at: usize,
}

impl Interner {
    /// The shared copy of a text.
    pub fn text(&self, text: &str) -> Arc<str> {
        let mut t = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = t.texts.get(text) {
            return found.clone();
        }
        let new: Arc<str> = text.into();
        t.texts.insert(new.clone());
        t.prune();
        new
    }

    /// The shared copy of a label set.
    pub fn labels(&self, labels: Labels) -> Arc<Labels> {
        let mut t = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = t.labels.get(&labels) {
            return found.clone();
        }
        let new = Arc::new(labels);
        t.labels.insert(new.clone());
        t.prune();
        new
    }

    /// The shared copy of what a pod asks of a node.
    pub fn needs(&self, needs: Needs) -> Arc<Needs> {
        let mut t = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = t.needs.get(&needs) {
            return found.clone();
        }
        let new = Arc::new(needs);
        t.needs.insert(new.clone());
        t.prune();
        new
    }

    /// The shared copy of a set of words: nearly all nodes have the same conditions True.
    pub fn set(&self, words: BTreeSet<String>) -> Arc<BTreeSet<String>> {
        let mut t = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = t.sets.get(&words) {
            return found.clone();
        }
        let new = Arc::new(words);
        t.sets.insert(new.clone());
        t.prune();
        new
    }

    /// The shared copy of a node's name.
    pub fn node(&self, name: &str) -> NodeName {
        let mut t = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = t.nodes.get(name) {
            return found.clone();
        }
        let new = NodeName::new(name);
        t.nodes.insert(name.into(), new.clone());
        t.prune();
        new
    }
}

impl Tables {
    fn prune(&mut self) {
        let shared = self.texts.len() + self.labels.len() + self.needs.len() + self.sets.len();
        let size = shared + self.nodes.len();
        if size < self.prune_at.max(PRUNE_FLOOR) {
            return;
        }
        self.texts.retain(|t| Arc::strong_count(t) > 1);
        self.labels.retain(|l| Arc::strong_count(l) > 1);
        self.needs.retain(|n| Arc::strong_count(n) > 1);
        self.sets.retain(|s| Arc::strong_count(s) > 1);
        // A NodeName does not tell who else holds it; forgetting one costs a second copy, no more.
        self.nodes.clear();
        let shared = self.texts.len() + self.labels.len() + self.needs.len() + self.sets.len();
        self.prune_at = 2 * shared;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn equal_things_are_one_thing_and_unused_ones_go() {
        let interner = Interner::default();
        let labels = || Labels::from([("app".to_owned(), "db".to_owned())]);
        let kept = interner.labels(labels());
        assert!(Arc::ptr_eq(&kept, &interner.labels(labels())));
        assert!(Arc::ptr_eq(&interner.text("default"), &interner.text("default")));
        for i in 0..3 * PRUNE_FLOOR {
            interner.text(&format!("passing-{i}"));
        }
        let size = interner.tables.lock().unwrap().texts.len();
        assert!(size <= PRUNE_FLOOR, "{size}");
        assert!(Arc::ptr_eq(&kept, &interner.labels(labels())));
    }
}
