//! Words that must not stand in the repository, and the newline at the end of every file.

use super::{Finding, Source};

/// Put together here, so that this file does not find itself.
const WORDS: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or write an issue"),
    (concat!("FIX", "ME"), "mend it, or write an issue"),
    (concat!("to", "do!("), "write the code"),
    (concat!("unimple", "mented!("), "write the code"),
    (concat!("#[ig", "nore"), "make the test pass, or remove it"),
    (concat!("/wo", "rk/"), "name no path of one machine"),
    (concat!("/fa", "rm/"), "name no path of one machine"),
];

/// Checks every text file.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            for (word, way_out) in WORDS.iter().filter(|(word, _)| stands_in(line, word)) {
                let what = format!("`{word}` in a committed file");
                findings.push(Finding::new(&source.path, number + 1, what, *way_out));
            }
        }
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            let last = source.text.lines().count();
            let what = "the file does not end with a newline";
            findings.push(Finding::new(&source.path, last, what, "add it"));
        }
    }
    findings
}

/// As a word of its own: no letter or digit touches its ends where it has letters itself.
fn stands_in(line: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = letter(line[..at].chars().next_back()) && letter(word.chars().next());
        let after = letter(line[at + word.len()..].chars().next()) && letter(word.chars().last());
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_only_as_words() {
        let note = concat!("// TO", "DO: later");
        for (text, wanted) in [(note, true), ("let method = TODOS;", false), ("/network/x", false)]
        {
            let source = Source { path: "a.rs".into(), text: format!("{text}\n") };
            assert_eq!(!check(&[source]).is_empty(), wanted, "{text}");
        }
    }

    #[test]
    fn a_file_ends_with_a_newline() {
        let source = |text: &str| Source { path: "a".into(), text: text.into() };
        assert_eq!(check(&[source("a\nb")])[0].line, 2);
        assert_eq!(check(&[source("a\n"), source("")]), []);
    }
}
