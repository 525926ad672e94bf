//! A check, with its result and what to do about it.

use serde::Serialize;

use crate::terminal::table::{Cell, Tone};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// Something will be missing, or could be better.
    Warn,
    /// Tracing cannot work.
    No,
}

/// A check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    #[serde(rename = "check")]
    pub name: &'static str,
    /// The result.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What to do. Set unless the status is ok.
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

    /// The columns of a table: the check, its status, and what was found with what to do.
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
