//! Text for terminals: tables, and the words of others made harmless.
//!
//! Entry points: [`plain`], [`table`], [`facts`].
//! Absent on purpose: colours and frames. Every line can be cut and searched.

/// One line of text without control characters: what a server or a machine wrote must not steer the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text of several lines without control characters but line ends and tabs.
pub(crate) fn plain_lines(text: &str) -> String {
    let keep = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(keep).collect()
}

/// Columns under headings, two spaces apart, the last one unpadded. An empty cell is `-`.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    let clean = |row: &Vec<String>| -> Vec<String> {
        row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(cell) }).collect()
    };
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(clean)).collect();
    let width = |column: usize| {
        let widths =
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            shown.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

/// Lines of name and value; those without a value are left out.
pub(crate) fn facts(pairs: &[(&str, String)]) -> String {
    let given = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = given().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in given() {
        text.push_str(&format!("{name:<width$}{}\n", plain(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows =
            vec![vec!["a".to_owned(), String::new()], vec!["long".to_owned(), "x y".to_owned()]];
        assert_eq!(table(&["ID", "WHY"], &rows), "ID    WHY\na     -\nlong  x y\n");
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}"), "a [2Jb c ");
        assert_eq!(plain_lines("a\x1b]0;x\x07\n\tb\r"), "a]0;x\n\tb");
        assert!(!table(&["X"], &[vec!["\x1b[31m".to_owned()]]).contains('\x1b'));
    }

    #[test]
    fn facts_without_a_value_are_left_out() {
        assert_eq!(facts(&[("Job", "1".into()), ("Reason", String::new())]), "Job  1\n");
    }
}
