//! Tables for a person: columns as wide as their contents, with every cell escaped.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr as _;

use super::{Colour, escaped};

/// The space between columns.
const GAP: &str = "  ";

/// The meaning of a cell beyond its text, shown as a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// No particular meaning.
    #[default]
    Plain,
    /// The head of a column, or a title.
    Strong,
    /// Less important.
    Faint,
    /// A good state.
    Good,
    /// A state that could be better.
    Doubtful,
    /// A bad state.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }

    /// Colours a text. It must be escaped already.
    pub(crate) fn paint(self, text: &str, colour: Colour) -> String {
        match (colour, self) {
            (Colour::Off, _) | (_, Self::Plain) => text.to_owned(),
            (Colour::On, _) => {
                let style = self.style();
                format!("{style}{text}{style:#}")
            }
        }
    }
}

/// The text of a column in one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with foreign text. An empty text is shown as a dash.
    pub(crate) fn new(foreign: &str) -> Self {
        match foreign {
            "" => Self { text: "-".to_owned(), tone: Tone::Faint },
            _ => Self { text: escaped(foreign), tone: Tone::Plain },
        }
    }

    /// A cell with an optional foreign text.
    pub(crate) fn maybe(foreign: Option<&str>) -> Self {
        Self::new(foreign.unwrap_or_default())
    }

    pub(crate) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// Rows below a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|name| Cell::new(name).toned(Tone::Strong));
        Self { head: head.collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Formats the table as indented lines. The last column of a line is not padded.
    pub(crate) fn render(&self, indent: &str, colour: Colour) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let mut widths = Vec::new();
        for cells in lines() {
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.text.width());
            }
        }
        lines().map(|cells| line(cells, &widths, indent, colour)).collect()
    }
}

fn line(cells: &[Cell], widths: &[usize], indent: &str, colour: Colour) -> String {
    let mut text = indent.to_owned();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if index > 0 {
            text.push_str(GAP);
        }
        text.push_str(&cell.tone.paint(&cell.text, colour));
        if index + 1 < cells.len() {
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.text.width())));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_are_escaped() {
        let mut table = Table::new(&["NAME", "PID"]);
        table.row(vec![Cell::new("größe"), Cell::new("1")]);
        table.row(vec![Cell::new("\u{1b}[2J"), Cell::maybe(None)]);
        let expected = "  NAME     PID\n  größe    1\n  \\x1b[2J  -\n";
        assert_eq!(table.render("  ", Colour::Off), expected);
        let mut wide = Table::new(&["NAME", "PID"]);
        wide.row(vec![Cell::new("日本"), Cell::new("1")]);
        wide.row(vec![Cell::new("e\u{301}t"), Cell::new("2")]);
        assert_eq!(
            wide.render("", Colour::Off),
            "NAME  PID\n日本  1\ne\u{301}t    2\n",
            "columns, not letters"
        );
        let coloured = table.render("", Colour::On);
        assert!(coloured.starts_with("\u{1b}[1mNAME\u{1b}[0m     "), "{coloured:?}");
    }
}
