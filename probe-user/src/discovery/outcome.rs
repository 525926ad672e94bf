//! How far each file of a process came on the way to its hooks, and why no further.
//!
//! Owns the words for the outcomes, which `ctrace doctor` shows and the plan's reasons are made of. It looks
//! into nothing itself.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::plan::SkipKind;
use crate::probe::tls::Untraceable;
use crate::probe::{Probe, ProbeMatch};
use crate::proc::maps::MapsError;
use crate::rootfs::OpenError;
use crate::timeout::timed_out_message;

/// What became of the files that a process maps executable.
#[derive(Debug)]
pub struct ProcessOutcome {
    /// The process.
    pub pid: u32,
    /// In the order of their addresses.
    pub files: Result<Vec<MappedFile>, MappingsError>,
}

/// A file that a process maps executable.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// As the process's mappings show it.
    pub path: PathBuf,
    /// How far it came.
    pub outcome: Arc<FileOutcome>,
}

/// How far a file came.
#[derive(Debug)]
pub enum FileOutcome {
    /// It could not be opened.
    Unopened(OpenFailure),
    /// It is no ELF file for this machine.
    NotElf(String),
    /// It is one, and could not be read or is broken.
    Unparsed(String),
    /// Nothing that is watched is in it.
    NothingWatched(String),
    /// It has TLS that cannot be traced.
    Untraceable(&'static Untraceable),
    /// It has functions that are watched.
    Watched(WatchedFile),
}

/// A file with functions that are watched.
#[derive(Clone, Debug, Default)]
pub struct WatchedFile {
    /// Public functions that are hooked.
    pub public: usize,
    /// Internal functions that are hooked in their place.
    pub internal: usize,
    /// Functions that cannot be hooked, with the reason.
    pub skipped: Vec<String>,
    /// TLS beside them that cannot be traced.
    pub untraceable: Option<&'static Untraceable>,
    /// How functions were found that the file does not name.
    pub evidence: Vec<String>,
}

/// Why a file could not be opened.
#[derive(Debug, Error)]
pub enum OpenFailure {
    /// The kernel refused, or what is there is not to be opened.
    #[error(transparent)]
    Refused(OpenError),
    /// The file system did not answer.
    #[error("{}", timed_out_message())]
    TimedOut,
}

/// Why it cannot be said what a process maps.
#[derive(Debug, Error)]
pub enum MappingsError {
    /// They cannot be read.
    #[error(transparent)]
    Unreadable(MapsError),
    /// The kernel did not answer.
    #[error("{}", timed_out_message())]
    TimedOut,
}

impl MappingsError {
    /// The reason, without the process, which is named beside it.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Unreadable(error) => error.why(),
            Self::TimedOut => timed_out_message(),
        }
    }
}

impl OpenFailure {
    /// The reason, without file and process, which are named beside it.
    fn why(&self) -> String {
        match self {
            Self::Refused(error) => error.why(),
            Self::TimedOut => timed_out_message(),
        }
    }
}

impl FileOutcome {
    /// Whether the file is of no interest, and not because of a fault.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::NotElf(_) | Self::NothingWatched(_))
    }

    /// Why a file is not hooked that perhaps should be.
    pub(super) fn refusal(&self, probe: &Probe) -> Option<(SkipKind, String)> {
        match self {
            Self::NotElf(_) | Self::NothingWatched(_) => None,
            Self::Unopened(failure) => Some((SkipKind::File, failure.why())),
            Self::Unparsed(why) => Some((SkipKind::File, why.clone())),
            Self::Untraceable(untraceable) => Some((SkipKind::Untraceable, untraceable.to_string())),
            Self::Watched(_) => Some((SkipKind::File, probe.nothing_usable().to_owned())),
        }
    }
}

impl WatchedFile {
    /// What was found in a file, after everything that speaks against a hook.
    pub(super) fn of(found: &ProbeMatch) -> Self {
        let serving = found.hooks.iter().filter(|hook| !hook.public_names.is_empty());
        let (public, internal): (Vec<_>, Vec<_>) =
            serving.partition(|hook| hook.public_names.contains(&hook.function));
        Self {
            public: public.len(),
            internal: internal.len(),
            skipped: found.skipped.clone(),
            untraceable: found.untraceable,
            evidence: found.evidence.clone(),
        }
    }
}
