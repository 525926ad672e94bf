//! SQL → statements, of which it is known what is a value.
//!
//! Owns where literals and comments begin and end, and which literals are secrets: those are replaced here,
//! and kept nowhere. In doubt more is replaced, never less. Every byte is looked at a constant number of
//! times.

use crate::event::{Statement, StatementPart};

/// The most bytes of a statement that are kept.
pub(in crate::protocol) const MAX_TEXT: usize = 16 * 1024;
/// The most literals of a statement that are kept.
const MAX_LITERALS: usize = 1024;
/// The longest word that can be an operation.
const MAX_WORD: usize = 32;
/// What stands for a secret.
const SECRET: &str = "***";
/// What stands for what is not kept.
const CUT: &str = "…";

/// The words that statements begin with.
const KEYWORDS: &[&str] = &[
    "ABORT",
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "CHECKPOINT",
    "CLOSE",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DISCARD",
    "DO",
    "DROP",
    "END",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "GRANT",
    "INSERT",
    "LISTEN",
    "LOCK",
    "MERGE",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "TABLE",
    "TRUNCATE",
    "UNLISTEN",
    "UPDATE",
    "VACUUM",
    "VALUES",
    "WITH",
    "DESC",
    "DESCRIBE",
    "FLUSH",
    "HANDLER",
    "KILL",
    "LOAD",
    "OPTIMIZE",
    "REPLACE",
    "UNLOCK",
    "USE",
    "XA",
];

/// How a server reads SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Dialect {
    pub(in crate::protocol) family: Family,
    pub(in crate::protocol) backslash: Backslash,
}

/// The systems whose lexers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Family {
    PostgreSql,
    /// MySQL and MariaDB.
    MySql,
}

/// What a backslash in a literal without prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Backslash {
    Escapes,
    IsText,
}

/// What is known of a text in SQL.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol) struct Sql {
    pub(in crate::protocol) statement: Statement,
    /// The first word, in upper case.
    pub(in crate::protocol) operation: Option<String>,
    /// How many statements it has. None if that takes more than the separators between them.
    pub(in crate::protocol) statements: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum TokenKind {
    Space,
    Comment,
    Word,
    /// A name in quotes.
    Name,
    Literal,
    Number,
    /// `?`, `$1`
    Placeholder,
    Symbol,
}

/// A token with its text.
pub(in crate::protocol) type SqlToken<'t> = (TokenKind, &'t str);

/// The tokens of a text. Together they are the text.
#[derive(Clone, Debug)]
pub(in crate::protocol) struct Tokens<'t> {
    rest: &'t str,
    dialect: Dialect,
}

impl<'t> Tokens<'t> {
    pub(in crate::protocol) fn new(rest: &'t str, dialect: Dialect) -> Self {
        Self { rest, dialect }
    }

    /// What follows the tokens that were read.
    pub(in crate::protocol) fn rest(&self) -> &'t str {
        self.rest
    }

    /// The next token that means something.
    pub(in crate::protocol) fn next_meaningful(&mut self) -> Option<SqlToken<'t>> {
        self.find(|(kind, _)| !matches!(kind, TokenKind::Space | TokenKind::Comment))
    }

    fn measure(&self) -> Option<(TokenKind, usize)> {
        let data = self.rest.as_bytes();
        let &first = data.first()?;
        let second = data.get(1).copied();
        let is_mysql = self.dialect.family == Family::MySql;
        let is_digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit());
        Some(match first {
            _ if first.is_ascii_whitespace() => (TokenKind::Space, run(data, |b| b.is_ascii_whitespace())),
            b'-' if second == Some(b'-') && self.is_line_comment(data) => (TokenKind::Comment, line(data)),
            b'#' if is_mysql => (TokenKind::Comment, line(data)),
            b'/' if second == Some(b'*') => self.block_comment(data),
            b'*' if second == Some(b'/') => (TokenKind::Symbol, 2),
            b'\'' => (TokenKind::Literal, quoted(data, 0, self.dialect.backslash)),
            b'"' if is_mysql => (TokenKind::Literal, quoted(data, 0, self.dialect.backslash)),
            b'"' => (TokenKind::Name, quoted(data, 0, Backslash::IsText)),
            b'`' if is_mysql => (TokenKind::Name, quoted(data, 0, Backslash::IsText)),
            b'$' if is_digit(second) => {
                (TokenKind::Placeholder, 1 + run(data.get(1..)?, |b| b.is_ascii_digit()))
            }
            b'$' if !is_mysql => self.dollar_quoted().unwrap_or((TokenKind::Symbol, 1)),
            b'?' => (TokenKind::Placeholder, 1),
            b'0'..=b'9' => (TokenKind::Number, number(data)),
            b'.' if is_digit(second) => (TokenKind::Number, number(data)),
            _ if is_word(first) => self.word(data),
            _ => (TokenKind::Symbol, 1),
        })
    }

    /// In MySQL, a space has to follow the dashes.
    fn is_line_comment(&self, data: &[u8]) -> bool {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
        self.dialect.family == Family::PostgreSql || data.get(2).is_none_or(is_space)
    }

    /// Comments of PostgreSQL nest. What is in `/*! */` is executed by MySQL.
    fn block_comment(&self, data: &[u8]) -> (TokenKind, usize) {
        let is_mysql = self.dialect.family == Family::MySql;
        let executed = match data {
            [_, _, b'!', ..] => Some(3),
            [_, _, b'M', b'!', ..] => Some(4),
            _ => None,
        };
        if let Some(length) = executed.filter(|_| is_mysql) {
            let version = data.get(length..).map_or(0, |rest| run(rest, |b| b.is_ascii_digit()));
            return (TokenKind::Symbol, length + version);
        }
        let (mut at, mut depth) = (2, 1_usize);
        while depth > 0 {
            let pair = data.get(at..at + 2);
            let (step, to) = match pair {
                Some(b"*/") => (2, depth - 1),
                Some(b"/*") if !is_mysql => (2, depth + 1),
                Some(_) => (1, depth),
                None => return (TokenKind::Comment, data.len()),
            };
            (at, depth) = (at + step, to);
        }
        (TokenKind::Comment, at)
    }

    /// `$tag$...$tag$`
    fn dollar_quoted(&self) -> Option<(TokenKind, usize)> {
        let tag = run(self.rest.as_bytes().get(1..)?, |b| is_word(b) && b != b'$' || b.is_ascii_digit());
        let delimiter = self.rest.get(..tag + 2).filter(|text| text.ends_with('$'))?;
        let body = self.rest.get(tag + 2..)?;
        let length = body.find(delimiter).map_or(self.rest.len(), |end| end + 2 * delimiter.len());
        Some((TokenKind::Literal, length))
    }

    /// A word, or a literal that a letter precedes: `E'...'`, `X'...'`, `U&'...'`.
    fn word(&self, data: &[u8]) -> (TokenKind, usize) {
        let is_mysql = self.dialect.family == Family::MySql;
        let backslash = match data {
            [b'E' | b'e', b'\'', ..] if !is_mysql => Some(Backslash::Escapes),
            [b'N' | b'n' | b'B' | b'b' | b'X' | b'x', b'\'', ..] => Some(self.dialect.backslash),
            _ => None,
        };
        if let Some(backslash) = backslash {
            return (TokenKind::Literal, quoted(data, 1, backslash));
        }
        match data {
            [b'U' | b'u', b'&', b'\'', ..] if !is_mysql => {
                (TokenKind::Literal, quoted(data, 2, Backslash::IsText))
            }
            [b'U' | b'u', b'&', b'"', ..] if !is_mysql => {
                (TokenKind::Name, quoted(data, 2, Backslash::IsText))
            }
            _ => (TokenKind::Word, run(data, |b| is_word(b) || b.is_ascii_digit() || b == b'$')),
        }
    }
}

impl<'t> Iterator for Tokens<'t> {
    type Item = SqlToken<'t>;

    fn next(&mut self) -> Option<SqlToken<'t>> {
        let (kind, length) = self.measure()?;
        let (token, rest) = self.rest.split_at_checked(length.max(1)).unwrap_or((self.rest, ""));
        self.rest = rest;
        Some((kind, token))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn run(data: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    data.iter().take_while(|byte| is_part(**byte)).count()
}

fn line(data: &[u8]) -> usize {
    run(data, |byte| byte != b'\n')
}

fn number(data: &[u8]) -> usize {
    let mut length = 0;
    while let Some(byte) = data.get(length) {
        let is_sign = matches!(byte, b'+' | b'-')
            && length > 0
            && matches!(data.get(length - 1), Some(b'e' | b'E'))
            && !matches!(data.get(1), Some(b'x' | b'X'))
            && data.get(length + 1).is_some_and(u8::is_ascii_digit);
        if !is_sign && !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'.') {
            break;
        }
        length += 1;
    }
    length
}

/// The length of what the quotes at `open` begin, up to the end if they do not close.
fn quoted(data: &[u8], open: usize, backslash: Backslash) -> usize {
    let Some(&quote) = data.get(open) else { return data.len() };
    let mut at = open + 1;
    while let Some(&byte) = data.get(at) {
        let is_doubled = byte == quote && data.get(at + 1) == Some(&quote);
        let escapes = byte == b'\\' && backslash == Backslash::Escapes;
        match byte {
            _ if is_doubled || escapes => at += 2,
            _ if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    data.len()
}

/// Whether the next literal is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secret {
    No,
    /// The next literals are, up to a word that begins something else.
    Next,
    /// All are, up to the end of the statement.
    Rest,
}

/// Reads a text, of which only the first bytes may be there.
pub(in crate::protocol) fn read(text: &[u8], dialect: Dialect) -> Sql {
    let kept = text.get(..MAX_TEXT).unwrap_or(text);
    let mut reader = Reader::default();
    let decoded = String::from_utf8_lossy(kept);
    let mut tokens = Tokens::new(&decoded, dialect);
    for token in tokens.by_ref() {
        reader.token(token);
        if reader.literals > MAX_LITERALS {
            break;
        }
    }
    if kept.len() < text.len() || !tokens.rest().is_empty() {
        reader.sql.statement.push(StatementPart::Text, CUT);
        reader.is_countable = false;
    }
    reader.finish()
}

#[derive(Debug)]
struct Reader {
    sql: Sql,
    secret: Secret,
    /// Whether the current statement changes accounts or settings.
    is_administrative: bool,
    /// Whether the current statement has a token.
    has_begun: bool,
    statements: u64,
    depth: usize,
    is_countable: bool,
    literals: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            sql: Sql::default(),
            secret: Secret::No,
            is_administrative: false,
            has_begun: false,
            statements: 0,
            depth: 0,
            is_countable: true,
            literals: 0,
        }
    }
}

impl Reader {
    fn token(&mut self, (kind, text): SqlToken<'_>) {
        let part = match kind {
            TokenKind::Literal | TokenKind::Number => return self.literal(kind, text),
            TokenKind::Comment if names_secret(text) => (StatementPart::Comment, "/*…*/"),
            TokenKind::Comment => (StatementPart::Comment, text),
            _ => (StatementPart::Text, text),
        };
        match kind {
            TokenKind::Word | TokenKind::Name => self.word(kind, text),
            TokenKind::Symbol => self.symbol(text),
            _ => {}
        }
        self.sql.statement.push(part.0, part.1);
    }

    fn literal(&mut self, kind: TokenKind, text: &str) {
        self.begin();
        self.literals += 1;
        let is_secret = self.secret != Secret::No || (kind == TokenKind::Literal && names_secret(text));
        let (part, text) =
            if is_secret { (StatementPart::Text, SECRET) } else { (StatementPart::Value, text) };
        self.sql.statement.push(part, text);
    }

    fn symbol(&mut self, text: &str) {
        match text {
            ";" if self.depth == 0 => {
                (self.secret, self.is_administrative, self.has_begun) = (Secret::No, false, false);
                return;
            }
            "(" => self.depth += 1,
            ")" => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if text != "(" || self.has_begun {
            self.begin();
        }
    }

    fn begin(&mut self) {
        if !self.has_begun {
            self.has_begun = true;
            self.statements += 1;
        }
    }

    fn word(&mut self, kind: TokenKind, text: &str) {
        let is_first = !self.has_begun;
        self.begin();
        let upper = text.get(..text.len().min(MAX_WORD)).unwrap_or_default().to_ascii_uppercase();
        if is_first && kind == TokenKind::Word {
            self.is_administrative =
                matches!(&*upper, "CREATE" | "ALTER" | "SET" | "GRANT" | "CHANGE" | "START" | "DO" | "BEGIN");
            if self.statements == 1 {
                self.sql.operation = Some(upper.clone());
            }
        }
        // Such statements contain others.
        let contains_others = ["ATOMIC", "FUNCTION", "PROCEDURE", "TRIGGER", "EVENT", "PACKAGE", "RULE"];
        self.is_countable &= !contains_others.contains(&&*upper);
        let is_connection = upper == "CONNECTION" && self.is_administrative;
        if names_secret(text) || upper == "IDENTIFIED" || is_connection {
            self.secret = if self.is_administrative { Secret::Rest } else { Secret::Next.max(self.secret) };
        } else if self.secret == Secret::Next && !links(&upper) {
            self.secret = Secret::No;
        }
    }

    fn finish(mut self) -> Sql {
        self.sql.statements = self.is_countable.then_some(self.statements);
        self.sql
    }
}

impl Secret {
    fn max(self, other: Self) -> Self {
        if other == Self::Rest { other } else { self }
    }
}

/// Whether a word may stand between the name of a secret and the secret.
fn links(word: &str) -> bool {
    matches!(
        word,
        "AS" | "BY" | "IS" | "NOT" | "IN" | "LIKE" | "ILIKE" | "TO" | "USING" | "WITH" | "ENCRYPTED"
    )
}

/// Whether a text may contain a secret or its name: a connection string, a statement within a literal.
fn names_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let names = ["password", "passwd", "passphrase", "secret", "identified by", "pwd="];
    names.iter().any(|name| lower.contains(name)) || has_user_information(&lower)
}

/// `scheme://user:password@host`
fn has_user_information(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    rest.find(':').zip(rest.rfind('@')).is_some_and(|(colon, at)| colon < at)
}

/// Whether a text is likely a statement, by how it begins.
pub(in crate::protocol) fn begins_statement(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let length = text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let word = text.get(..length).unwrap_or_default();
    let is_keyword = KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes()));
    let is_begun = [&b"/*"[..], b"--", b"("].iter().any(|begin| text.starts_with(begin));
    is_keyword || (is_begun && text.len() >= 8 && std::str::from_utf8(text).is_ok())
}

#[cfg(test)]
mod tests;
