//! Probe kinds: what is watched, as hooks.
//!
//! Owns what is known of libraries and functions. Pure: objects in, [`crate::plan::Hook`]s out; it never
//! opens a file, and never talks to the kernel. To add a kind: a variant of [`Probe`]; the compiler finds the
//! rest.

use crate::elf::{Object, SymbolFilter};
use crate::plan::Hook;
use crate::plan::program_set::ProgramSet;

pub mod exec;
pub mod tls;
pub mod uprobe;

use std::path::Path;

pub use tls::{Confidence, Ssl};
use uprobe::Uprobe;

/// What a tracing command watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Plaintext of TLS connections.
    Ssl(Ssl),
    /// Calls of functions.
    Uprobe(Uprobe),
    /// Programs that are executed.
    Exec(exec::Exec),
}

/// What is known of the library in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryInfo {
    /// Its soname.
    pub name: Option<String>,
    /// `OpenSSL`, …; without a version when only the symbols tell.
    pub implementation: Option<String>,
    /// `3.0.19`; OpenSSL's is often in libcrypto only: see [`tls::version::find`].
    pub version: Option<String>,
    /// The library that it is linked against and that may know the version, such as `libcrypto.so.3`
    /// (a soname); none when the version is known, or nothing else can know it.
    pub version_in: Option<String>,
}

/// What to hook in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The library.
    pub library: LibraryInfo,
    /// In the order of their offsets.
    pub hooks: Vec<Hook>,
    /// Functions that cannot be hooked, with the reason.
    pub skipped: Vec<String>,
    /// TLS beside the hooks that cannot be traced.
    pub untraceable: Option<&'static tls::Untraceable>,
    /// How functions were found that the object does not name.
    pub evidence: Vec<String>,
    /// More is asked for than may be hooked, in words.
    pub excess: Option<String>,
}

/// The object has nothing that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHooks {
    /// No TLS.
    #[error("no function of a known TLS library is in it (by .dynsym, .symtab and signatures)")]
    Ssl,
    /// TLS that cannot be traced.
    #[error("{0}")]
    Untraceable(&'static tls::Untraceable),
    /// No function.
    #[error("no pattern names it")]
    Uprobe,
    /// Tracepoints tell all.
    #[error("nothing in files is watched")]
    Exec,
}

impl Probe {
    /// Whether files that processes map are looked into: otherwise tracepoints tell all.
    pub fn looks_into_files(&self) -> bool {
        match self {
            Self::Ssl(_) | Self::Uprobe(_) => true,
            Self::Exec(_) => false,
        }
    }

    /// The BPF programs that it needs, and what they are set to.
    pub fn programs(&self) -> ProgramSet {
        match self {
            Self::Ssl(ssl) => ProgramSet::tls(ssl.connections),
            Self::Uprobe(_) => ProgramSet::functions(),
            Self::Exec(exec) => ProgramSet::executions(exec.details()),
        }
    }

    /// The symbols that [`Probe::hooks`] looks at, for [`Object::parse`].
    pub fn wanted(&self) -> SymbolFilter {
        match self {
            Self::Ssl(_) => tls::wanted(),
            Self::Uprobe(_) | Self::Exec(_) => SymbolFilter::default(),
        }
    }

    /// The hooks of an object that was parsed with [`Probe::wanted`]; `path` is where its container has it.
    pub fn hooks(&self, object: &Object, path: &Path) -> Result<Found, NoHooks> {
        match self {
            Self::Ssl(wanted) => tls::hooks_of(object, *wanted),
            Self::Uprobe(uprobe) => uprobe::hooks(uprobe, object, path),
            Self::Exec(_) => Err(NoHooks::Exec),
        }
    }

    /// What it means that no file of a process has a hook.
    pub fn nothing_found(&self) -> &'static str {
        match self {
            Self::Ssl(_) => {
                "no function such as SSL_read is exported, has a symbol, or was found by signature there"
            }
            Self::Uprobe(_) => "none of them is what a pattern names",
            Self::Exec(_) => "nothing in files is watched",
        }
    }

    /// What it means that an object has what is watched, and no hook.
    pub fn nothing_usable(&self) -> &'static str {
        match self {
            Self::Ssl(_) => "it has TLS functions, but none of them can be probed",
            Self::Uprobe(_) => "nothing is probed in it",
            Self::Exec(_) => "nothing in files is watched",
        }
    }

    /// What to do when there is nothing to attach to.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Ssl(_) => tls::NEXT_STEP,
            Self::Uprobe(_) => uprobe::NEXT_STEP,
            Self::Exec(_) => "tracepoints tell all: nothing needs to be attached to",
        }
    }
}
