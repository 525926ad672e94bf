//! What the names of prepared statements and portals stand for.
//!
//! A name is only known if the message that gave it was seen, and the server has confirmed it. Names are
//! bounded: the one that was used least recently is forgotten.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::event::Statement;
use crate::protocol::database::sql::{self, Dialect, Sql, TokenKind, Tokens};

/// The most statements of a connection.
const MAX_STATEMENTS: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// The most portals of a connection.
const MAX_PORTALS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// The most bytes of all statements.
const MAX_BYTES: usize = 1 << 20;
/// The longest name that is kept. PostgreSQL's own are 63 bytes long at most.
pub(super) const MAX_NAME: usize = 256;

/// A statement that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) statement: Statement,
    pub(super) operation: Option<String>,
    pub(super) effect: SqlEffect,
}

impl Prepared {
    pub(super) fn new(sql: Sql, effect: SqlEffect) -> Arc<Self> {
        Arc::new(Self { statement: sql.statement, operation: sql.operation, effect })
    }

    pub(super) fn size(&self) -> usize {
        self.statement.size() + size_of::<Self>()
    }
}

/// What a portal executes: the name of its statement, and the statement if it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct ExecutedStatement {
    pub(super) name: Option<String>,
    pub(super) prepared: Option<Arc<Prepared>>,
}

/// What changes if the server confirms a message.
#[derive(Clone, Debug, Default)]
pub(super) enum NameEffect {
    #[default]
    None,
    Statement(String, Option<Arc<Prepared>>),
    CloseStatement(String),
    Portal(String, ExecutedStatement),
    ClosePortal(String),
    /// What the SQL of the message says.
    Sql(SqlEffect),
}

/// What a text in SQL does to names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SqlEffect {
    #[default]
    None,
    Prepare(String, Arc<Prepared>),
    Execute(String),
    Deallocate(String),
    /// It may change any portal.
    Portals,
    /// It may change any name.
    All,
}

/// The names of a connection.
#[derive(Debug)]
pub(super) struct Names {
    statements: LruCache<String, Arc<Prepared>>,
    portals: LruCache<String, ExecutedStatement>,
    bytes: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { statements: LruCache::new(MAX_STATEMENTS), portals: LruCache::new(MAX_PORTALS), bytes: 0 }
    }
}

impl Names {
    pub(super) fn statement(&mut self, name: &str) -> Option<Arc<Prepared>> {
        self.statements.get(name).cloned()
    }

    pub(super) fn portal(&mut self, name: &str) -> Option<ExecutedStatement> {
        self.portals.get(name).cloned()
    }

    /// Handles that a message was confirmed.
    pub(super) fn apply(&mut self, effect: NameEffect) {
        match effect {
            NameEffect::None | NameEffect::Sql(SqlEffect::None | SqlEffect::Execute(_)) => {}
            NameEffect::Statement(name, Some(prepared))
            | NameEffect::Sql(SqlEffect::Prepare(name, prepared)) => {
                self.put(name, prepared);
            }
            NameEffect::Statement(name, None)
            | NameEffect::CloseStatement(name)
            | NameEffect::Sql(SqlEffect::Deallocate(name)) => self.forget(&name),
            NameEffect::Portal(name, target) => {
                self.portals.put(name, target);
            }
            NameEffect::ClosePortal(name) => {
                self.portals.pop(&name);
            }
            NameEffect::Sql(SqlEffect::Portals) => self.portals.clear(),
            NameEffect::Sql(SqlEffect::All) => *self = Self::default(),
        }
    }

    /// Handles that it is not known whether a message was confirmed.
    pub(super) fn doubt(&mut self, effect: NameEffect) {
        match effect {
            NameEffect::Statement(name, _) | NameEffect::Sql(SqlEffect::Prepare(name, _)) => {
                self.forget(&name);
            }
            NameEffect::Portal(name, _) => {
                self.portals.pop(&name);
            }
            other => self.apply(other),
        }
    }

    /// Handles that a transaction has ended: its portals are closed.
    pub(super) fn end_transaction(&mut self) {
        self.portals.clear();
    }

    fn put(&mut self, name: String, prepared: Arc<Prepared>) {
        self.forget(&name);
        self.bytes += prepared.size() + name.len();
        if let Some((name, evicted)) = self.statements.push(name, prepared) {
            self.bytes = self.bytes.saturating_sub(evicted.size() + name.len());
        }
        while self.bytes > MAX_BYTES
            && let Some((name, evicted)) = self.statements.pop_lru()
        {
            self.bytes = self.bytes.saturating_sub(evicted.size() + name.len());
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(prepared) = self.statements.pop(name) {
            self.bytes = self.bytes.saturating_sub(prepared.size() + name.len());
        }
    }

    pub(super) fn size(&self) -> usize {
        let target =
            |target: &ExecutedStatement| target.prepared.as_ref().map_or(0, |prepared| prepared.size());
        let portals = self.portals.iter().map(|(name, portal)| name.len() + target(portal));
        self.bytes + portals.sum::<usize>()
    }
}

/// Finds out what a text does to names.
pub(super) fn sql_effect(text: &[u8], sql: &Sql, dialect: Dialect) -> SqlEffect {
    let Some(operation) = sql.operation.as_deref() else { return SqlEffect::None };
    let changes_portals =
        ["CLOSE", "DECLARE", "COMMIT", "ROLLBACK", "END", "ABORT", "MOVE", "CALL", "DO"].contains(&operation);
    let changes_names = ["PREPARE", "EXECUTE", "DEALLOCATE", "DISCARD"].contains(&operation);
    if sql.statements != Some(1) {
        let lower = String::from_utf8_lossy(text).to_ascii_lowercase();
        return if ["prepare", "deallocate", "discard"].into_iter().any(|word| lower.contains(word)) {
            SqlEffect::All
        } else {
            SqlEffect::Portals
        };
    }
    match (changes_names, changes_portals) {
        (true, _) => named(&String::from_utf8_lossy(text), operation, dialect).unwrap_or(SqlEffect::All),
        (false, true) => SqlEffect::Portals,
        (false, false) => SqlEffect::None,
    }
}

/// What a statement says that begins with PREPARE and the like. None if it is not understood.
fn named(text: &str, operation: &str, dialect: Dialect) -> Option<SqlEffect> {
    let mut tokens = Tokens::new(text, dialect);
    tokens.next_meaningful()?;
    let mut token = tokens.next_meaningful()?;
    if operation == "DEALLOCATE" && is_word(token, "PREPARE") {
        token = tokens.next_meaningful()?;
    }
    if operation == "DISCARD" {
        return Some(if is_word(token, "ALL") { SqlEffect::All } else { SqlEffect::Portals });
    }
    if operation == "DEALLOCATE" && is_word(token, "ALL") {
        return Some(SqlEffect::All);
    }
    if operation == "PREPARE" && is_word(token, "TRANSACTION") {
        return Some(SqlEffect::Portals);
    }
    let name = folded(token)?;
    match operation {
        "DEALLOCATE" => Some(SqlEffect::Deallocate(name)),
        "EXECUTE" => Some(SqlEffect::Execute(name)),
        _ => {
            // Types may stand in parentheses.
            while !is_word(tokens.next_meaningful()?, "AS") {}
            let text = tokens.rest().trim().trim_end_matches(';');
            let prepared = Prepared::new(sql::read(text.as_bytes(), dialect), SqlEffect::None);
            Some(SqlEffect::Prepare(name, prepared))
        }
    }
}

fn is_word((kind, text): (TokenKind, &str), word: &str) -> bool {
    kind == TokenKind::Word && text.eq_ignore_ascii_case(word)
}

/// A name as the server keeps it. None if it is none, or in a form that is not read.
fn folded((kind, text): (TokenKind, &str)) -> Option<String> {
    let name = match kind {
        TokenKind::Word if text.is_ascii() => text.to_ascii_lowercase(),
        TokenKind::Name => text.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\""),
        _ => return None,
    };
    // The server cuts longer ones.
    (name.len() < 64).then_some(name)
}
