//! Probe kinds: what to trace, as hooks.
//!
//! Holds the knowledge of libraries and functions. Pure: takes objects, returns [`crate::plan::Hook`]s; it
//! never opens a file or talks to the kernel. To add a kind, add a variant of [`Probe`]; the compiler finds
//! the rest.

use std::collections::BTreeSet;

use crate::elf::{Object, SymbolFilter};
use crate::event::Direction;
use crate::plan::Hook;
use crate::plan::program_set::ProgramSet;

pub mod exec;
pub mod tls;
pub mod uprobe;

use std::path::Path;

pub use tls::{Confidence, SslProbe};
use uprobe::{MissingFunction, Uprobe};

/// What a tracing command observes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Plaintext of TLS connections.
    Ssl(SslProbe),
    /// Calls of any functions.
    Uprobe(Uprobe),
    /// Programs that are executed.
    Exec(exec::ExecProbe),
}

/// The TLS library in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryInfo {
    /// Its soname.
    pub name: Option<String>,
    /// The implementation, such as `OpenSSL`. Symbols alone reveal it without a version.
    pub implementation: Option<String>,
    /// The version, such as `3.0.19`. OpenSSL often keeps it in libcrypto only: see [`tls::version::find`].
    pub version: Option<String>,
    /// The soname of the linked library that may contain the version, such as `libcrypto.so.3`. None if the
    /// version was found, or if no other library can contain it.
    pub version_in: Option<String>,
}

/// The hooks of an object, and what could not be hooked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeMatch {
    /// The library in the object.
    pub library: LibraryInfo,
    /// The hooks, sorted by offset.
    pub hooks: Vec<Hook>,
    /// Functions that cannot be hooked, each with the reason.
    pub skipped: Vec<String>,
    /// What is not seen of it because of that, and users have to know of.
    pub unseen: Vec<UnseenPart>,
    /// The patterns that should match it, and do not.
    pub missing: Vec<MissingFunction>,
    /// The indices of the patterns that match it.
    pub matched: BTreeSet<usize>,
    /// TLS in the object, besides the hooks, that cannot be traced.
    pub untraceable: Option<&'static tls::Untraceable>,
    /// How functions without symbols were found.
    pub evidence: Vec<String>,
    /// If more hooks are requested than allowed: the message for the user.
    pub over_limit: Option<String>,
}

/// What a trace does not see of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnseenPart {
    /// What an implementation moves in this direction, with a message for the user.
    Direction(Direction, String),
    /// Anything else: the message for the user.
    Other(String),
}

/// Why an object has no hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHooks {
    /// It contains no TLS library that ctrace recognises.
    #[error("it has no function of a supported TLS library (searched .dynsym, .symtab and signatures)")]
    Ssl,
    /// It contains TLS that cannot be traced.
    #[error("{0}")]
    Untraceable(&'static tls::Untraceable),
    /// No pattern matches it.
    #[error("no pattern matches it")]
    Uprobe,
    /// Tracepoints deliver everything, so files need no hooks.
    #[error("`ctrace exec` uses tracepoints and attaches to no file")]
    Exec,
}

impl ProbeMatch {
    /// Whether any hook reports bytes that go this way.
    pub fn sees(&self, direction: Direction) -> bool {
        self.hooks.iter().any(|hook| hook.direction() == Some(direction))
    }
}

impl Probe {
    /// Whether mapped files must be inspected for hooks. Otherwise tracepoints deliver everything.
    pub fn inspects_files(&self) -> bool {
        match self {
            Self::Ssl(ssl) => ssl.captured.has_tls(),
            Self::Uprobe(_) => true,
            Self::Exec(_) => false,
        }
    }

    /// Whether something may be captured although no hook is attached.
    pub fn works_without_hooks(&self) -> bool {
        match self {
            Self::Ssl(ssl) => ssl.captured.has_cleartext(),
            Self::Uprobe(_) => false,
            Self::Exec(_) => true,
        }
    }

    /// The BPF programs that the probe needs, with their settings.
    pub fn programs(&self) -> ProgramSet {
        match self {
            Self::Ssl(ssl) => ProgramSet::connections_of(ssl.captured, ssl.connections),
            Self::Uprobe(_) => ProgramSet::functions(),
            Self::Exec(exec) => ProgramSet::executions(exec.details()),
        }
    }

    /// The symbols that [`Probe::hooks`] needs, for [`Object::parse`].
    pub fn symbol_filter(&self) -> SymbolFilter {
        match self {
            Self::Ssl(_) => tls::symbol_filter(),
            Self::Uprobe(_) | Self::Exec(_) => SymbolFilter::default(),
        }
    }

    /// Whether a library of this file name may have hooks, so that it is worth attaching to before a program
    /// loads it.
    pub fn expects_library(&self, name: &str) -> bool {
        match self {
            Self::Ssl(_) => tls::is_expected_library(name),
            Self::Uprobe(uprobe) => uprobe.names_library(name),
            Self::Exec(_) => false,
        }
    }

    /// Whether an extension module of this file name, in a directory of Python's or Node.js's packages, may
    /// have hooks, so that it is worth attaching to before a program loads it.
    pub fn expects_module(&self, name: &str) -> bool {
        match self {
            Self::Ssl(_) => tls::is_expected_module(name),
            Self::Uprobe(_) | Self::Exec(_) => false,
        }
    }

    /// Whether the separate debug file of an object at this path is worth reading.
    pub fn needs_debug_file(&self, object: &Object, path: &Path) -> bool {
        match self {
            Self::Uprobe(uprobe) => uprobe.needs_symbols(object, path),
            Self::Ssl(_) | Self::Exec(_) => false,
        }
    }

    /// The hooks of an object that was parsed with [`Probe::symbol_filter`]. `path` is its path in the
    /// container.
    pub fn hooks(&self, object: &Object, path: &Path) -> Result<ProbeMatch, NoHooks> {
        match self {
            Self::Ssl(wanted) => tls::hooks_of(object, *wanted),
            Self::Uprobe(uprobe) => uprobe::hooks(uprobe, object, path),
            Self::Exec(_) => Err(NoHooks::Exec),
        }
    }

    /// What to tell the user when no mapped file of a process has hooks.
    pub fn nothing_found(&self) -> &'static str {
        match self {
            Self::Ssl(_) => {
                "no function such as SSL_read was found (searched exports, symbols and signatures)"
            }
            Self::Uprobe(_) => "no pattern matches any of them",
            Self::Exec(_) => "`ctrace exec` uses tracepoints and attaches to no file",
        }
    }

    /// What to tell the user when an object matches but none of its functions can be hooked.
    pub fn nothing_usable(&self) -> &'static str {
        match self {
            Self::Ssl(_) => "it has TLS functions, but none of them can be probed",
            Self::Uprobe(_) => "a pattern matches it, but none of its functions can be probed",
            Self::Exec(_) => "`ctrace exec` uses tracepoints and attaches to no file",
        }
    }

    /// The next step for the user when there is nothing to attach to.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Ssl(_) => tls::NEXT_STEP,
            Self::Uprobe(_) => uprobe::NEXT_STEP,
            Self::Exec(_) => "tracepoints deliver all events, so there is nothing to attach to",
        }
    }
}
