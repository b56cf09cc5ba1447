//! The rules of the house that no compiler checks. Entry point: [`check`], also run as a test.
//!
//! Every finding names the place, what is wrong and the way out.

pub mod edges;
pub mod errors;
pub mod modules;
pub mod sizes;
pub mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::run::output;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Relative to the workspace.
    pub path: String,
    pub line: usize,
    pub what: String,
    pub way_out: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), way_out: way_out.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.what, self.way_out)
    }
}

/// A text file of the workspace.
pub struct Source {
    /// Relative to the workspace, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Test code by its place.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|ending| ending == "rs")
    }
}

/// Checks the workspace at `root`; findings are sorted by place.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let sources = sources(root)?;
    let mut findings = edges::check(root)?;
    findings.extend(modules::check(&sources)?);
    findings.extend(sizes::check(&sources)?);
    findings.extend(errors::check(&sources));
    findings.extend(words::check(&sources));
    findings.sort();
    Ok(findings)
}

/// Every text file that git knows or would add.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = output(&mut git, Duration::from_secs(30))?;
    let mut found = Vec::new();
    for path in listed.lines() {
        let file: PathBuf = root.join(path);
        // Deleted but still in the index, or a link.
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("read {path}"))?;
        // What is not text has no lines to judge.
        if let Ok(text) = String::from_utf8(bytes) {
            found.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(found)
}

/// Whether an item's attributes take it out of the product: `#[cfg(test)]`, `#[test]`.
fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let last = path.segments.last().map(|segment| segment.ident.to_string());
        last.as_deref() == Some("test")
            || (path.is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|inner| inner.is_ident("test")))
    })
}

#[cfg(test)]
mod tests;
