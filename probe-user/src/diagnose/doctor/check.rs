//! A question with its answer, and what to do about it.

use serde::Serialize;

use crate::terminal::table::{Cell, Tone};

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Something will be missing, or could be better.
    Warn,
    /// It cannot work.
    No,
}

/// What was looked at and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    #[serde(rename = "check")]
    pub name: &'static str,
    /// The answer.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What to do; there is something for every answer but ok.
    pub next: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Ok, found: found.into(), next: None }
    }

    pub(super) fn warn(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Warn, found: found.into(), next: Some(next.into()) }
    }

    pub(super) fn no(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::No, found: found.into(), next: Some(next.into()) }
    }

    /// Columns of a table: check, status, what was found, what to do.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let status = match self.status {
            CheckStatus::Ok => Cell::new("ok").toned(Tone::Good),
            CheckStatus::Warn => Cell::new("warn").toned(Tone::Doubtful),
            CheckStatus::No => Cell::new("no").toned(Tone::Bad),
        };
        let mut found = self.found.clone();
        if let Some(next) = &self.next {
            found = format!("{found} -> {next}");
        }
        vec![Cell::new(self.name), status, Cell::new(&found)]
    }
}
