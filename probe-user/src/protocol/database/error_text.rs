//! What errors of databases say, of which it is known what is a value.
//!
//! Names of tables and columns are shown, and so is what a server says of its own. What it repeats of a
//! statement or of a row is a value. In doubt a text is one.

use crate::event::{Statement, StatementPart};

/// The most bytes that are kept.
const MAX_TEXT: usize = 1024;
/// The most parts.
const MAX_PARTS: usize = 64;
/// The words before a quoted text that is a name.
const NAMING: [&str; 30] = [
    "relation",
    "column",
    "table",
    "constraint",
    "function",
    "procedure",
    "type",
    "schema",
    "database",
    "role",
    "user",
    "index",
    "sequence",
    "view",
    "extension",
    "statement",
    "cursor",
    "portal",
    "trigger",
    "key",
    "from",
    "publication",
    "subscription",
    "slot",
    "server",
    "language",
    "operator",
    "collation",
    "parameter",
    "variable",
];
/// The words before a number that is a place or a limit.
const COUNTING: [&str; 9] =
    ["row", "line", "position", "character", "argument", "state", "max", "than", "least"];
/// What MySQL calls the parts of a statement.
const PARTS: [&str; 6] =
    ["field list", "where clause", "order clause", "group statement", "on clause", "having clause"];

/// Finds the values in what an error says.
pub(in crate::protocol) fn read(text: &[u8]) -> Statement {
    let decoded = String::from_utf8_lossy(text.get(..MAX_TEXT).unwrap_or(text));
    let mut out = Statement::default();
    let (mut rest, mut word) = (&*decoded, "");
    let mut is_after_word = false;
    for _ in 0..MAX_PARTS {
        let Some(first) = rest.chars().next() else { return out };
        let (part, length) = match first {
            '"' | '\'' | '`' if !is_after_word => quoted(rest, first, word),
            '0'..='9' if !is_after_word && !COUNTING.contains(&word) => (
                StatementPart::Value,
                run(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':')),
            ),
            _ if is_word(first) => (StatementPart::Text, run(rest, is_word)),
            _ => (StatementPart::Text, run(rest, |c| !is_word(c) && !matches!(c, '"' | '\'' | '`')).max(1)),
        };
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        is_after_word = first.is_alphanumeric() || matches!(first, '_' | '$');
        if is_after_word {
            word = token;
        } else {
            is_after_word = token.ends_with(['$', '(']);
        }
        out.push(part, token);
        rest = after;
    }
    if !rest.is_empty() {
        out.push(StatementPart::Value, rest);
    }
    out
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn run(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// A quoted text. A value may contain quotes, so that it is taken to end at the last ones.
fn quoted(text: &str, quote: char, word: &str) -> (StatementPart, usize) {
    let inner = text.get(1..).unwrap_or_default();
    let name = inner.find(quote).and_then(|end| inner.get(..end));
    let is_name = |name: &&str| {
        let fits =
            name.len() <= 128 && name.chars().all(|c| is_word(c) || matches!(c, '.' | '$' | '-' | '@' | '%'));
        let lower = word.to_ascii_lowercase();
        (fits && NAMING.contains(&&*lower)) || (lower == "in" && PARTS.contains(name))
    };
    match name.filter(is_name) {
        Some(name) => (StatementPart::Text, name.len() + 2),
        None => (StatementPart::Value, inner.rfind(quote).map_or(text.len(), |end| end + 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        for (text, expected) in [
            (r#"relation "users" does not exist"#, r#"relation "users" does not exist"#),
            (r#"column "a" of relation "t" does not exist"#, r#"column "a" of relation "t" does not exist"#),
            (r#"invalid input syntax for type integer: "a"b""#, "invalid input syntax for type integer: ?"),
            (
                r#"duplicate key value violates unique constraint "users_pkey""#,
                r#"duplicate key value violates unique constraint "users_pkey""#,
            ),
            (r#"syntax error at or near "selec""#, "syntax error at or near ?"),
            ("division by zero", "division by zero"),
            ("value too long for type character varying(3)", "value too long for type character varying(3)"),
            (
                r#"value "99999999999" is out of range for type integer"#,
                "value ? is out of range for type integer",
            ),
            ("could not find 4711 of bob", "could not find ? of bob"),
            ("there is no parameter $1", "there is no parameter $1"),
            ("Duplicate entry 'it's' for key 't.PRIMARY'", "Duplicate entry ?"),
            ("Table 'shop.users' doesn't exist", "Table 'shop.users' doesn't exist"),
            ("Unknown column 'a' in 'field list'", "Unknown column 'a' in 'field list'"),
            (
                "Column count doesn't match value count at row 1",
                "Column count doesn't match value count at row 1",
            ),
            ("", ""),
        ] {
            assert_eq!(read(text.as_bytes()).without_values(), expected);
            assert_eq!(read(text.as_bytes()).text(), text);
        }
    }

    #[test]
    fn long_and_broken_texts() {
        assert!(read(&[b'\''; 5000]).text().len() <= MAX_TEXT);
        assert!(read("a 1 ".repeat(1000).as_bytes()).size() < 10_000);
        assert!(read(&[0xff; 5000]).text().len() <= 3 * MAX_TEXT);
    }
}
