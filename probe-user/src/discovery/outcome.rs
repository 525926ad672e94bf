//! How far each file of a process came on the way to its hooks, and why no further.
//!
//! Owns the outcomes, which `ctrace doctor` shows and from which the plan's reasons are made. It does not
//! inspect anything itself.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;

use crate::plan::SkipKind;
use crate::probe::tls::Untraceable;
use crate::probe::uprobe::MissingFunction;
use crate::probe::{Probe, ProbeMatch, UnseenPart};
use crate::proc::maps::MapsError;
use crate::rootfs::OpenError;
use crate::timeout::timed_out_message;

/// The outcomes of the files that a process maps as executable.
#[derive(Debug)]
pub struct ProcessOutcome {
    /// The process.
    pub pid: u32,
    /// The files, in the order of their addresses.
    pub files: Result<Vec<MappedFile>, MappingsError>,
}

/// A file that a process maps as executable.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// The path as the process's mappings show it.
    pub path: PathBuf,
    /// How far it came.
    pub outcome: Arc<FileOutcome>,
}

/// How far a file came.
#[derive(Debug)]
pub enum FileOutcome {
    /// It could not be opened.
    Unopened(OpenFailure),
    /// It is not an ELF file for this machine.
    NotElf(String),
    /// It is one, but could not be read or is broken.
    Unparsed(String),
    /// It has no functions to hook.
    NothingWatched(String),
    /// It contains TLS that cannot be traced.
    Untraceable(&'static Untraceable),
    /// The process executes its code from a copy, or is asked to copy it. The reason.
    CopiedCode(String),
    /// It has functions to hook, though perhaps none that can be hooked.
    Watched(WatchedFile),
}

/// A file with functions to hook.
#[derive(Clone, Debug, Default)]
pub struct WatchedFile {
    /// The number of public functions that are hooked.
    pub public: usize,
    /// The number of internal functions that are hooked in place of public ones.
    pub internal: usize,
    /// The functions that cannot be hooked, with the reason.
    pub skipped: Vec<String>,
    /// What is not seen of it, and users have to know of.
    pub unseen: Vec<UnseenPart>,
    /// The patterns that should match it, and do not.
    pub missing: Vec<MissingFunction>,
    /// Other TLS in it that cannot be traced.
    pub untraceable: Option<&'static Untraceable>,
    /// How functions were found that have no symbols in the file.
    pub evidence: Vec<String>,
}

/// Why a file could not be opened.
#[derive(Debug, Error)]
pub enum OpenFailure {
    /// The kernel refused, or the path leads to something that ctrace never opens.
    #[error(transparent)]
    Refused(OpenError),
    /// The file system did not answer.
    #[error("{}", timed_out_message())]
    TimedOut,
}

/// Why the mappings of a process are not available.
#[derive(Debug, Error)]
pub enum MappingsError {
    /// They could not be read.
    #[error(transparent)]
    Unreadable(MapsError),
    /// The kernel did not answer.
    #[error("{}", timed_out_message())]
    TimedOut,
}

impl MappingsError {
    /// The reason alone, for messages that already name the process.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Unreadable(error) => error.why(),
            Self::TimedOut => timed_out_message(),
        }
    }
}

impl OpenFailure {
    /// Whether the process has ended, or no longer maps the file: that says nothing about the file.
    fn is_of_process(&self) -> bool {
        match self {
            Self::Refused(OpenError::Open { source, .. } | OpenError::Root { source, .. }) => {
                let gone = [Errno::NOENT, Errno::SRCH].map(Errno::raw_os_error);
                source.raw_os_error().is_some_and(|error| gone.contains(&error))
            }
            Self::Refused(OpenError::Changed { .. } | OpenError::NotRegular { .. }) | Self::TimedOut => false,
        }
    }

    /// The reason alone, for messages that already name the file and the process.
    fn why(&self) -> String {
        match self {
            Self::Refused(error) => error.why(),
            Self::TimedOut => timed_out_message(),
        }
    }
}

impl FileOutcome {
    /// Whether there is nothing to hook in the file, and not because of an error.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::NotElf(_) | Self::NothingWatched(_))
    }

    /// What of the file is not seen, and users have to know of, besides functions that patterns do not find.
    pub(super) fn unseen(&self) -> Vec<(SkipKind, String)> {
        match self {
            Self::NotElf(_) | Self::NothingWatched(_) => Vec::new(),
            Self::Unopened(failure) if failure.is_of_process() => Vec::new(),
            Self::Unopened(failure) => vec![(SkipKind::Unseen, failure.why())],
            Self::Unparsed(why) => vec![(SkipKind::Unseen, why.clone())],
            Self::Untraceable(untraceable) => vec![(SkipKind::Untraceable, untraceable.to_string())],
            Self::CopiedCode(why) => vec![(SkipKind::CopiedCode, why.clone())],
            Self::Watched(watched) => {
                let untraceable = watched.untraceable.map(|other| (SkipKind::Untraceable, other.to_string()));
                let unseen = watched.unseen.iter().map(|part| match part {
                    UnseenPart::Direction(direction, why) => {
                        (SkipKind::OneDirection(*direction), why.clone())
                    }
                    UnseenPart::Other(why) => (SkipKind::Unseen, why.clone()),
                });
                unseen.chain(untraceable).collect()
            }
        }
    }

    /// The patterns that should match the file, and do not.
    pub(super) fn missing(&self) -> &[MissingFunction] {
        match self {
            Self::Watched(watched) => &watched.missing,
            _ => &[],
        }
    }

    /// Why a file is not hooked that perhaps should be, if nothing else says why.
    pub(super) fn refusal(&self, probe: &Probe) -> Option<(SkipKind, String)> {
        match self {
            Self::Unopened(failure) if failure.is_of_process() => Some((SkipKind::File, failure.why())),
            Self::Watched(watched) if watched.unseen.is_empty() && watched.missing.is_empty() => {
                Some((SkipKind::File, probe.nothing_usable().to_owned()))
            }
            _ => None,
        }
    }
}

impl WatchedFile {
    /// Summarises what was found in a file, after hooks that cannot be used were removed.
    pub(super) fn of(found: &ProbeMatch) -> Self {
        let serving = found.hooks.iter().filter(|hook| !hook.public_names.is_empty());
        let (public, internal): (Vec<_>, Vec<_>) =
            serving.partition(|hook| hook.public_names.contains(&hook.function));
        Self {
            public: public.len(),
            internal: internal.len(),
            skipped: found.skipped.clone(),
            unseen: found.unseen.clone(),
            missing: found.missing.clone(),
            untraceable: found.untraceable,
            evidence: found.evidence.clone(),
        }
    }
}
