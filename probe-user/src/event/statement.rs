//! What is asked of a database: a statement of SQL, a command with its arguments.
//!
//! Owns what of it is a value, which records do not show unless asked to, and its shape, which it has in
//! common with the statements that only differ in values.

use std::fmt;

/// What stands for a value that is not shown.
const HIDDEN: &str = "?";
/// The longest shape, in characters.
const MAX_SHAPE: usize = 256;

/// A statement or a command, as far as it was kept. Its `Debug` prints no text, because that is other
/// people's traffic.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Statement {
    parts: Vec<(StatementPart, String)>,
}

/// What a part of a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementPart {
    /// Words, names and punctuation.
    Text,
    /// A comment. It is shown, but not part of the shape.
    Comment,
    /// What names an entry, as the key of Redis does. It is shown, but not part of the shape.
    Key,
    /// A value. It is only shown if secrets are.
    Value,
}

impl Statement {
    /// Adds a part after the previous ones. Parts of a kind that follow each other are one.
    pub fn push(&mut self, part: StatementPart, text: &str) {
        match self.parts.last_mut() {
            Some((last, of_last)) if *last == part && part == StatementPart::Text => of_last.push_str(text),
            _ => self.parts.push((part, text.to_owned())),
        }
    }

    /// The statement as it was sent.
    pub fn text(&self) -> String {
        self.parts.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// The statement with `?` in place of each value.
    pub fn without_values(&self) -> String {
        let shown = |(part, text): &'_ (StatementPart, String)| match part {
            StatementPart::Text | StatementPart::Comment | StatementPart::Key => text.clone(),
            StatementPart::Value => HIDDEN.to_owned(),
        };
        self.parts.iter().map(shown).collect()
    }

    /// What it has in common with other statements of its kind: `?` in place of each value and key, one space
    /// between words, and one value in place of a list of values.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        let mut words = 0;
        for (part, text) in &self.parts {
            let text = match part {
                StatementPart::Text => text.as_str(),
                StatementPart::Comment => " ",
                StatementPart::Key | StatementPart::Value => HIDDEN,
            };
            for character in text.chars() {
                if !character.is_whitespace() {
                    shape.push(character);
                    words += 1;
                } else if !shape.ends_with(' ') && !shape.is_empty() {
                    shape.push(' ');
                }
                if character == '?' {
                    join_list(&mut shape);
                }
            }
            if words > 4 * MAX_SHAPE {
                break;
            }
        }
        let shape = shape.trim_end();
        match shape.char_indices().nth(MAX_SHAPE) {
            Some((end, _)) => format!("{}…", shape.get(..end).unwrap_or_default()),
            None => shape.to_owned(),
        }
    }

    /// The bytes of all parts.
    pub fn size(&self) -> usize {
        let of_part = |(_, text): &(StatementPart, String)| text.len() + size_of::<(StatementPart, String)>();
        self.parts.iter().map(of_part).sum()
    }

    /// Whether it has no parts.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Makes `?, ?` and `? ?` at the end one `?`.
fn join_list(shape: &mut String) {
    let Some(before) = shape.strip_suffix(HIDDEN) else { return };
    let before = before.trim_end();
    let before = before.strip_suffix(',').map_or(before, str::trim_end);
    if before.ends_with(HIDDEN) && before.len() < shape.len() {
        let length = before.len();
        shape.truncate(length);
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement({} parts)", self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_keys_are_not_part_of_the_shape() {
        use StatementPart::{Key, Text, Value};
        for (parts, without_values, shape) in [
            (
                &[(Text, "SELECT *\n  FROM t WHERE id IN ("), (Value, "1"), (Text, ", "), (Value, "'a'")][..],
                "SELECT *\n  FROM t WHERE id IN (?, ?",
                "SELECT * FROM t WHERE id IN (?",
            ),
            (&[(Text, "SET "), (Key, "user:1"), (Text, " "), (Value, "x")], "SET user:1 ?", "SET ?"),
            (
                &[(Text, "a = "), (Value, "1"), (Text, " AND b = "), (Value, "2")],
                "a = ? AND b = ?",
                "a = ? AND b = ?",
            ),
            (&[], "", ""),
        ] {
            let mut statement = Statement::default();
            for (part, text) in parts {
                statement.push(*part, text);
            }
            assert_eq!(
                (statement.without_values().as_str(), statement.shape().as_str()),
                (without_values, shape)
            );
        }
    }

    #[test]
    fn a_shape_is_cut() {
        let mut statement = Statement::default();
        statement.push(StatementPart::Text, &"a".repeat(5000));
        assert_eq!(statement.shape().chars().count(), MAX_SHAPE + 1);
    }
}
