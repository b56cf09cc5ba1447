//! Every error code has a page under `docs/errors`, and every page a code.

use std::collections::BTreeMap;

use syn::visit::Visit;

use super::{Finding, Source};

const CATALOGUE: &str = "crates/api/src/error.rs";
const PAGES: &str = "docs/errors/";

/// Compares the catalogue's codes with the pages.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(catalogue) = sources.iter().find(|source| source.path == CATALOGUE) else {
        return vec![Finding::new(
            CATALOGUE,
            1,
            "the catalogue of error codes is missing",
            "write it there; pages are checked against it",
        )];
    };
    let codes = match codes_of(&catalogue.text) {
        Ok(codes) => codes,
        Err(error) => {
            return vec![Finding::new(CATALOGUE, 1, format!("not Rust: {error}"), "mend it")];
        }
    };
    if codes.is_empty() {
        let way_out = "codes are string literals like those of the API page";
        return vec![Finding::new(CATALOGUE, 1, "no error code was found", way_out)];
    }
    let pages: Vec<(&str, &str)> = sources
        .iter()
        .filter_map(|source| {
            let name = source.path.strip_prefix(PAGES)?.strip_suffix(".md")?;
            (name != "README").then_some((name, source.path.as_str()))
        })
        .collect();
    let mut findings = Vec::new();
    for (code, line) in &codes {
        if !pages.iter().any(|(name, _)| name == code) {
            let way_out = format!("write {PAGES}{code}.md");
            findings.push(Finding::new(CATALOGUE, *line, format!("{code} has no page"), way_out));
        }
    }
    for (name, path) in pages.iter().filter(|(name, _)| !codes.contains_key(*name)) {
        let what = format!("the catalogue has no code {name}");
        findings.push(Finding::new(path, 1, what, "remove the page or add the code"));
    }
    findings
}

/// String literals that are a code as a whole, with the line of the first; tests aside.
fn codes_of(text: &str) -> syn::Result<BTreeMap<String, usize>> {
    let mut literals = Literals(BTreeMap::new());
    literals.visit_file(&syn::parse_file(text)?);
    Ok(literals.0)
}

struct Literals(BTreeMap<String, usize>);

impl<'ast> Visit<'ast> for Literals {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !super::only_for_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.add(literal);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // A catalogue may be written as a macro's table, which is not parsed as Rust.
        self.add_tokens(item.tokens.clone());
    }
}

impl Literals {
    fn add(&mut self, literal: &syn::LitStr) {
        let text = literal.value();
        if is_code(&text) {
            self.0.entry(text).or_insert(literal.span().start().line);
        }
    }

    fn add_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.add_tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.add(&text);
                    }
                }
                _ => {}
            }
        }
    }
}

/// `CCE.01400001`, `APIGW.0301`: letters, a dot, digits.
fn is_code(text: &str) -> bool {
    text.split_once('.').is_some_and(|(family, number)| {
        family.len() >= 2
            && family.chars().all(|c| c.is_ascii_uppercase())
            && number.len() >= 4
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn codes_and_pages_must_pair() {
        let catalogue = "const A: &str = \"CCE.01400001\";\ntable! { X => (\"APIGW.0301\", 401) }\n\
                         #[cfg(test)] mod tests { const B: &str = \"CCE.09999999\"; }\n";
        let found = check(&[
            file(CATALOGUE, catalogue),
            file("docs/errors/CCE.01400001.md", "x\n"),
            file("docs/errors/CCE.7777.md", "x\n"),
            file("docs/errors/README.md", "x\n"),
        ]);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "crates/api/src/error.rs:2: APIGW.0301 has no page: write docs/errors/APIGW.0301.md",
                "docs/errors/CCE.7777.md:1: the catalogue has no code CCE.7777: \
                 remove the page or add the code",
            ]
        );
    }

    #[test]
    fn a_missing_or_empty_catalogue_is_a_finding() {
        assert!(check(&[])[0].what.contains("missing"));
        assert!(check(&[file(CATALOGUE, "fn f() {}\n")])[0].what.contains("no error code"));
    }
}
