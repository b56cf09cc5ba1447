//! Which module of the server may name which: its layers are kept by `use` edges.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Finding, Source, only_for_tests};

const SERVER: &str = "crates/server/src/";

/// A module (first part of the path below the crate) never names what starts with one of these.
/// A leading `crate` is the server itself; other names are crates.
const NEVER: &[(&str, &[&str])] = &[
    (
        "http",
        &["crate::kube", "crate::machines", "crate::sync::act", "kube", "k8s_openapi", "russh"],
    ),
    ("sync", &["crate::http", "evenkeel_api"]),
    ("store", &["crate::http", "crate::sync"]),
];

/// What only the composition root names, besides the module itself.
const CONCRETE: &[&str] =
    &["crate::kube", "crate::machines", "crate::store::sqlite", "crate::store::memory"];
const COMPOSITION_ROOT: &str = "app";

/// Checks the server's modules; tests are free.
pub fn check(sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(below) = source.path.strip_prefix(SERVER) else {
            continue;
        };
        if !source.is_rust() || source.is_test() {
            continue;
        }
        let file =
            syn::parse_file(&source.text).with_context(|| format!("parse {}", source.path))?;
        let mut names = Names { module: module_of(below), found: Vec::new() };
        names.visit_file(&file);
        let module = module_of(below);
        let mut seen = BTreeSet::new();
        for (name, line) in names.found {
            if let Some(way_out) = broken(&module, &name)
                && seen.insert((line, name.clone()))
            {
                let what = format!("{} names {name}", module.join("::"));
                findings.push(Finding::new(&source.path, line, what, way_out));
            }
        }
    }
    Ok(findings)
}

/// `http/nodepools/show.rs` is `[http, nodepools, show]`; `lib.rs` is empty.
fn module_of(below: &str) -> Vec<String> {
    let path = below.trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

fn broken(module: &[String], name: &str) -> Option<&'static str> {
    let inside = |prefix: &str| name == prefix || name.starts_with(&format!("{prefix}::"));
    let first = module.first().map_or("", String::as_str);
    let never = NEVER.iter().filter(|(own, _)| *own == first).flat_map(|(_, names)| *names);
    if never.into_iter().any(|prefix| inside(prefix)) {
        return Some("record what is wanted and let the layer below do it, through a port");
    }
    let own = format!("crate::{}", module.join("::"));
    let concrete = CONCRETE.iter().filter(|prefix| {
        inside(prefix) && own != **prefix && !own.starts_with(&format!("{prefix}::"))
    });
    // The store's own files may name their neighbours, the crate's root only declares modules.
    let kin = |prefix: &str| first == "store" && prefix.starts_with("crate::store");
    (first != COMPOSITION_ROOT && !first.is_empty() && concrete.into_iter().any(|p| !kin(p)))
        .then_some("only app.rs names concrete types: take the trait as an argument")
}

/// Collects every absolute path that a file names.
struct Names {
    module: Vec<String>,
    found: Vec<(String, usize)>,
}

impl Names {
    fn add(&mut self, words: &[String], span: Span) {
        let mut words: Vec<String> = words.to_vec();
        if words.len() < 2 && words.first().is_some_and(|word| word == "crate") {
            return;
        }
        // Relative paths become absolute.
        let mut here = self.module.clone();
        let relative = words.first().is_some_and(|word| word == "super" || word == "self");
        if relative {
            while let Some(word) = words.first() {
                match word.as_str() {
                    "super" => drop(here.pop()),
                    "self" => {}
                    _ => break,
                }
                words.remove(0);
            }
            here.insert(0, "crate".to_owned());
            here.extend(words);
            words = here;
        }
        self.found.push((words.join("::"), span.start().line));
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |word: &syn::Ident| {
            let mut words = before.to_vec();
            words.push(word.to_string());
            words
        };
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.add(before, name.span()),
            syn::UseTree::Name(name) => self.add(&with(&name.ident), name.span()),
            syn::UseTree::Rename(name) if name.ident == "self" => self.add(before, name.span()),
            syn::UseTree::Rename(name) => self.add(&with(&name.ident), name.span()),
            syn::UseTree::Glob(glob) => self.add(before, glob.span()),
            syn::UseTree::Group(group) => {
                for each in &group.items {
                    self.add_tree(before, each);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !only_for_tests(&item.attrs) {
            self.add_tree(&[], &item.tree);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !only_for_tests(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !only_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let words: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
            self.add(&words, path.span());
        }
        visit::visit_path(self, path);
    }
}
