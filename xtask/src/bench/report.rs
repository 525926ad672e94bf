//! The report: Markdown that the command writes into `docs/performance.md`, between two marks.
//!
//! Owns the marks and the form. The text outside the marks is written by people and never touched.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace;

const BEGIN: &str = "<!-- Written by `cargo xtask bench`: -->";
const END: &str = "<!-- End of what is written by `cargo xtask bench`. -->";

/// The most columns of a line that is not a table's.
const WIDTH: usize = 110;

/// Sections of Markdown.
#[derive(Debug, Default)]
pub(super) struct BenchReport {
    text: String,
}

impl BenchReport {
    /// Adds a paragraph, or a list with an item in each line, wrapped as documents are.
    pub(super) fn paragraph(&mut self, text: &str) {
        for line in text.lines() {
            wrap(line, &mut self.text);
        }
        self.text.push('\n');
    }

    /// Adds a table. Its first column has words, the others have numbers.
    pub(super) fn table<const N: usize>(&mut self, header: [&str; N], rows: &[[String; N]]) {
        let mut line = |cells: &[String]| {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "| {} |", cells.join(" | "));
        };
        line(&header.map(str::to_owned));
        let mut rule = ["---:"; N].map(str::to_owned);
        if let Some(first) = rule.first_mut() {
            "---".clone_into(first);
        }
        line(&rule);
        for row in rows {
            line(row);
        }
        self.text.push('\n');
    }

    /// The sections so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Writes the report into the document, in place of an earlier one.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let file = workspace::root().join("docs/performance.md");
        let old = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let new = replaced(&old, &self.text)
            .with_context(|| format!("{} lacks the marks {BEGIN} and {END}", file.display()))?;
        fs::write(&file, new).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Appends a line, in several if it is too long. Those after the first of a list's item are indented.
fn wrap(line: &str, text: &mut String) {
    let indent = if line.starts_with("- ") { "  " } else { "" };
    let mut width = 0;
    for word in line.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(indent);
            width = indent.len();
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += length;
    }
    text.push('\n');
}

fn replaced(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("# A\n{BEGIN}\nold\n{END}\nB\n");
        let expected = format!("# A\n{BEGIN}\n\nnew\n\n{END}\nB\n");
        assert_eq!(replaced(&document, "new\n\n"), Some(expected));
        assert_eq!(replaced("# A", "new"), None);
    }

    #[test]
    fn paragraphs_and_items_are_wrapped() {
        let mut report = BenchReport::default();
        let long = "word ".repeat(22);
        report.paragraph(&format!("{long}and more\nshort"));
        report.paragraph(&format!("- {long}and"));
        let whole = long.trim_end();
        let item = "word ".repeat(21);
        let expected = format!("{whole}\nand more\nshort\n\n- {}\n  word and\n\n", item.trim_end());
        assert_eq!(report.text(), expected);
    }

    #[test]
    fn a_table_has_a_rule_below_its_header() {
        let mut report = BenchReport::default();
        report.table(["a", "b"], &[["1".to_owned(), "2".to_owned()]]);
        assert_eq!(report.text(), "| a | b |\n| --- | ---: |\n| 1 | 2 |\n\n");
    }
}
