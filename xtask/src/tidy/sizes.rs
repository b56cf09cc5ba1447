//! No file over 500 lines, no function over 70; tests aside.
//!
//! Exceptions stand in `xtask/tidy-exceptions.toml` with a reason, and only while they are needed.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Finding, Source, only_for_tests};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const EXCEPTIONS: &str = "xtask/tidy-exceptions.toml";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    path: String,
    /// None: the whole file's size.
    function: Option<String>,
    reason: String,
}

/// Something too long.
struct Long {
    path: String,
    line: usize,
    function: Option<String>,
    lines: usize,
}

/// Checks all Rust files outside tests.
pub fn check(sources: &[Source]) -> Result<Vec<Finding>> {
    let list = sources.iter().find(|source| source.path == EXCEPTIONS);
    let exceptions: Exceptions = match list {
        Some(source) => toml::from_str(&source.text).with_context(|| EXCEPTIONS.to_owned())?,
        None => Exceptions::default(),
    };
    let mut long = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        measure(source, &mut long)?;
    }
    Ok(judge(&long, &exceptions.exception))
}

fn measure(source: &Source, long: &mut Vec<Long>) -> Result<()> {
    let file = syn::parse_file(&source.text).with_context(|| format!("parse {}", source.path))?;
    let mut sizes = Sizes { source, long, test_lines: BTreeSet::new() };
    sizes.visit_file(&file);
    let lines = source.text.lines().count() - sizes.test_lines.len();
    if lines > FILE_LINES {
        long.push(Long { path: source.path.clone(), line: 1, function: None, lines });
    }
    Ok(())
}

fn judge(long: &[Long], exceptions: &[Exception]) -> Vec<Finding> {
    let matches = |e: &Exception, l: &Long| e.path == l.path && e.function == l.function;
    let mut findings = Vec::new();
    for each in long.iter().filter(|each| !exceptions.iter().any(|e| matches(e, each))) {
        let (what, way_out) = match &each.function {
            Some(name) => (
                format!("fn {name} has {} lines, the limit is {FUNCTION_LINES}", each.lines),
                "split it",
            ),
            None => (
                format!("{} lines outside tests, the limit is {FILE_LINES}", each.lines),
                "split the module",
            ),
        };
        findings.push(Finding::new(&each.path, each.line, what, way_out));
    }
    for each in exceptions {
        let name = each.function.as_deref().unwrap_or("the file");
        if each.reason.trim().is_empty() {
            let what = format!("the exception for {name} in {} has no reason", each.path);
            findings.push(Finding::new(EXCEPTIONS, 1, what, "write the reason"));
        }
        if !long.iter().any(|l| matches(each, l)) {
            let what = format!("the exception for {name} in {} is not needed", each.path);
            findings.push(Finding::new(EXCEPTIONS, 1, what, "remove it"));
        }
    }
    findings
}

struct Sizes<'a> {
    source: &'a Source,
    long: &'a mut Vec<Long>,
    test_lines: BTreeSet<usize>,
}

impl Sizes<'_> {
    fn function(&mut self, name: &syn::Ident, from: proc_macro2::Span, to: proc_macro2::Span) {
        let line = from.start().line;
        let lines = to.end().line + 1 - line;
        if lines > FUNCTION_LINES {
            let function = Some(name.to_string());
            self.long.push(Long { path: self.source.path.clone(), line, function, lines });
        }
    }
}

impl<'ast> Visit<'ast> for Sizes<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if only_for_tests(&item.attrs) {
            let span = item.span();
            self.test_lines.extend(span.start().line..=span.end().line);
        } else {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if only_for_tests(&item.attrs) {
            let span = item.span();
            self.test_lines.extend(span.start().line..=span.end().line);
        } else {
            self.function(&item.sig.ident, item.sig.span(), item.block.span());
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            self.function(&item.sig.ident, item.sig.span(), item.block.span());
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig.ident, item.sig.span(), block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn source(text: String) -> Source {
        Source { path: "crates/x/src/a.rs".into(), text }
    }

    #[test]
    fn long_functions_and_files_are_found_and_tests_are_not_counted() {
        let body = "    let _ = 1;\n".repeat(70);
        let product = format!("fn long() {{\n{body}}}\n");
        let tests = format!("#[cfg(test)]\nmod tests {{\nfn long() {{\n{body}}}\n}}\n");
        let found = check(&[source(product)]).unwrap();
        assert!(found[0].what.starts_with("fn long has 72 lines"), "{}", found[0]);
        assert_eq!(check(&[source(tests)]).unwrap(), []);
        let big = "// a\n".repeat(501);
        assert!(check(&[source(big)]).unwrap()[0].what.starts_with("501 lines"));
        assert_eq!(check(&[source("// a\n".repeat(500))]).unwrap(), []);
    }

    #[test]
    fn exceptions_need_a_reason_and_a_need() {
        let list = |text: &str| Source { path: EXCEPTIONS.into(), text: text.into() };
        let big = || source("// a\n".repeat(501));
        let entry = "[[exception]]\npath = \"crates/x/src/a.rs\"\nreason = ";
        assert_eq!(check(&[big(), list(&format!("{entry}\"one table\"\n"))]).unwrap(), []);
        let without = check(&[big(), list(&format!("{entry}\" \"\n"))]).unwrap();
        assert!(without[0].what.contains("no reason"), "{}", without[0]);
        let stale = check(&[source("// a\n".into()), list(&format!("{entry}\"x\"\n"))]).unwrap();
        assert!(stale[0].what.contains("not needed"), "{}", stale[0]);
    }
}
