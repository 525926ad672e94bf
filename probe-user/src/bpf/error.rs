//! Errors of loading, attaching and reading, and what the user can do about them.

use std::path::PathBuf;
use std::{fs, io};

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use super::features;
use super::lacking::{Lacking, Needed};
use super::tracepoint_format::TRACEFS;
use crate::elf::FileOffset;

/// The oldest kernel that supports attach cookies for uprobes.
const MINIMUM_KERNEL: &str = "5.15";

/// A scope that the kernel's filter cannot express.
#[derive(Debug, Error)]
pub enum ScopeError {
    /// A cgroup too deep in the hierarchy.
    #[error(
        "cgroup {path:?} is at level {level} of the hierarchy, but the filter supports 16: select its \
         processes by --pid, or select the container that it is in"
    )]
    TooDeep {
        /// The path of the cgroup.
        path: String,
        /// The level of the cgroup.
        level: u32,
    },
    /// More PID namespaces than the filter has room for.
    #[error("{count} PID namespaces are selected, but the filter holds 8: select fewer, or --all")]
    TooManyNamespaces {
        /// How many were selected.
        count: usize,
    },
    /// More cgroups than the filter has room for.
    #[error(
        "no room for cgroup {path:?}: the filter holds {limit} cgroups; select or exclude fewer containers"
    )]
    TooManyCgroups {
        /// The path of the cgroup for which there is no room.
        path: String,
        /// How many cgroups the filter holds.
        limit: u32,
    },
    /// More threads than the filter has room for.
    #[error(
        "no room for all threads of process {pid}: the filter holds {limit} threads; select by --container, \
         or --all"
    )]
    TooManyThreads {
        /// The process.
        pid: u32,
        /// How many threads the filter holds.
        limit: u32,
    },
    /// The processes cannot be listed.
    #[error("could not list the processes in /proc: it must be mounted and readable")]
    Processes(#[source] io::Error),
}

impl ScopeError {
    /// Whether the error means that the filter has no more room.
    pub(super) fn is_full(&self) -> bool {
        matches!(
            self,
            Self::TooManyCgroups { .. } | Self::TooManyThreads { .. } | Self::TooManyNamespaces { .. }
        )
    }
}

/// Loading, attaching or reading failed.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A capability is missing.
    #[error("{what} is not permitted: {lacking}")]
    NotPermitted {
        /// What was tried.
        what: String,
        /// The missing capabilities.
        lacking: Lacking,
        /// The kernel's error.
        #[source]
        source: Source,
    },
    /// The kernel lacks something.
    #[error(
        "this kernel ({release}) has no {what}: ctrace needs Linux {MINIMUM_KERNEL} or newer with {config}"
    )]
    Kernel {
        /// The missing feature.
        what: &'static str,
        /// The option of the kernel's configuration that provides it.
        config: &'static str,
        /// The running kernel.
        release: String,
    },
    /// One link to many places was asked for, and cannot be made.
    #[error(
        "this kernel ({release}) has no links to many probes (uprobe_multi): --probe-link multi needs Linux \
         6.6 or newer; leave it out, or use --probe-link perf"
    )]
    NoMultiLinks {
        /// The running kernel.
        release: String,
    },
    /// The kernel refused a program.
    #[error(
        "the kernel refused the BPF program {name}; please report it with the output of `ctrace -vv …` and \
         `uname -a`"
    )]
    Program {
        /// The name of the program.
        name: String,
        /// The kernel's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object could not be loaded.
    #[error("the BPF programs could not be loaded; `ctrace doctor` checks each thing that they need")]
    Load(#[source] Box<EbpfError>),
    /// There are more different capture specs than the kernel's table holds.
    #[error("more than {limit} different lists of arguments would have to be read: name fewer functions")]
    Specs {
        /// How many specs the table holds.
        limit: u32,
    },
    /// A map is missing in the object: program and loader do not belong together.
    #[error("the BPF object has no {name}: this build of ctrace is broken, rebuild it")]
    Missing {
        /// The name of the map.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("the BPF map {name} could not be used; please report it with the output of `ctrace doctor`")]
    Map {
        /// The name of the map.
        name: &'static str,
        /// The error of the operation.
        #[source]
        source: MapError,
    },
    /// A probe could not be attached.
    #[error("{function} at file offset {offset:#x} of {path:?} could not be probed")]
    Attach {
        /// The path of the object inside its root.
        path: String,
        /// The function.
        function: String,
        /// The offset in the file.
        offset: u64,
        /// The kernel's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// sysfs is not mounted.
    #[error(
        "sysfs is not mounted at /sys, where the kernel lists its features: run `mount -t sysfs sysfs /sys`, \
         or give the container the host's (docker run -v /sys:/sys:ro)"
    )]
    Sysfs,
    /// The limit of open files is reached.
    #[error(
        "{what}: too many open files: each program, map and probe needs one, and the limit is {limit}; raise \
         it before starting ctrace (ulimit -n 65536; docker run --ulimit nofile=65536; LimitNOFILE=65536 of \
         systemd)"
    )]
    Files {
        /// What was tried.
        what: String,
        /// How many files may be open.
        limit: String,
        /// The kernel's error.
        #[source]
        source: Source,
    },
    /// There is not enough memory.
    #[error(
        "{what}: out of memory: use a smaller ring (--ring-size 4M), or raise the memory limit of ctrace's \
         cgroup (memory.max; docker run --memory) or of its address space (ulimit -v)"
    )]
    Memory {
        /// What was tried.
        what: String,
        /// The kernel's error.
        #[source]
        source: Source,
    },
    /// tracefs cannot be read.
    #[error("tracefs cannot be read: run `mount -t tracefs tracefs /sys/kernel/tracing` as root")]
    Tracefs {
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A tracepoint lacks a field that it has on every supported kernel.
    #[error(
        "{path:?} describes no field {field}: this kernel is not supported yet, please report its `uname -a`"
    )]
    Tracepoint {
        /// The path of the tracepoint's description.
        path: PathBuf,
        /// The name of the missing field.
        field: String,
    },
    /// The kernel's filter cannot express the scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The kernel does not report mappings.
    #[error(
        "the kernel cannot report which files are mapped during the trace ({what}: {why}), so libraries that \
         are loaded later are not traced; {}",
        next_of_mappings(.why)
    )]
    Mappings {
        /// What was tried.
        what: &'static str,
        /// The error.
        why: io::Error,
    },
    /// The ring cannot be polled.
    #[error(
        "the ring buffer cannot be polled; raise the limit of open files (ulimit -n), or if that is not the \
         reason, please report it"
    )]
    Poll(#[source] io::Error),
}

impl SessionError {
    /// Whether the cause is a missing right or a missing feature of the kernel.
    pub fn is_kernel_or_rights(&self) -> bool {
        // A kernel that is too old, or built without a feature, can refuse in many ways.
        let refused = matches!(self, Self::Load(_) | Self::Program { .. } | Self::Tracepoint { .. });
        let absent = matches!(
            self,
            Self::Kernel { .. } | Self::NoMultiLinks { .. } | Self::Sysfs | Self::Tracefs { .. }
        );
        refused || absent || matches!(self, Self::NotPermitted { .. })
    }

    /// Whether a resource is exhausted, so that the next attempt would fail in the same way.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Files { .. } | Self::Memory { .. })
    }

    pub(super) fn no_uprobe_multi() -> Self {
        Self::NoMultiLinks { release: release() }
    }

    pub(super) fn load(source: EbpfError) -> Self {
        if is_errno(&source, Errno::PERM) {
            return Self::denied("loading BPF programs", &Lacking::PROGRAMS, source);
        }
        Self::short("loading BPF programs", source).unwrap_or_else(|source| Self::Load(Box::new(source)))
    }

    pub(super) fn program(name: &str, source: ProgramError) -> Self {
        let what = format!("the BPF program {name}");
        // The verifier also returns EACCES when it refuses a program.
        let is_refused = matches!(source, ProgramError::LoadError { .. }) && !is_errno(&source, Errno::PERM);
        if is_denied(&source) && !is_refused {
            return Self::denied(&what, &Lacking::PROGRAMS, source);
        }
        // aya says only that it found no tracefs. Reading that again shows why.
        let unread =
            matches!(source, ProgramError::IOError(_)).then(|| fs::read_dir(TRACEFS).err()).flatten();
        if let Some(lack) = unread.and_then(|error| Self::lack(&error)) {
            return lack(what, Box::new(source));
        }
        Self::short(&what, source)
            .unwrap_or_else(|source| Self::Program { name: name.to_owned(), source: Box::new(source) })
    }

    pub(super) fn tracefs(source: io::Error) -> Self {
        if is_denied(&source) {
            return Self::denied("reading tracefs (/sys/kernel/tracing)", &Lacking::TRACEFS, source);
        }
        Self::Tracefs { source }
    }

    fn denied(what: &str, needed: &[Needed], source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let (what, lacking) = (what.to_owned(), Lacking::of(needed));
        Self::NotPermitted { what, lacking, source: Box::new(source) }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        match Self::lack(&source) {
            Some(lack) => lack(format!("the BPF map {name}"), Box::new(source)),
            None => Self::Map { name, source },
        }
    }

    pub(super) fn attach(
        path: &str,
        function: &str,
        offset: FileOffset,
        needed: &[Needed],
        source: ProgramError,
    ) -> Self {
        let what = format!("a uprobe on {function}");
        if is_denied(&source) {
            return Self::denied(&what, needed, source);
        }
        Self::short(&what, source).unwrap_or_else(|source| Self::Attach {
            path: path.to_owned(),
            function: function.to_owned(),
            offset: offset.0,
            source: Box::new(source),
        })
    }

    pub(super) fn poll(source: io::Error) -> Self {
        match Self::lack(&source) {
            Some(lack) => lack("polling a ring buffer".to_owned(), Box::new(source)),
            None => Self::Poll(source),
        }
    }

    /// Converts an error that means an exhausted resource. Any other error is returned as it is.
    fn short<E: std::error::Error + Send + Sync + 'static>(what: &str, source: E) -> Result<Self, E> {
        match Self::lack(&source) {
            Some(lack) => Ok(lack(what.to_owned(), Box::new(source))),
            None => Err(source),
        }
    }

    /// The constructor for the exhausted resource, if that is the cause.
    fn lack(source: &(dyn std::error::Error + 'static)) -> Option<fn(String, Source) -> Self> {
        if is_errno(source, Errno::MFILE) || is_errno(source, Errno::NFILE) {
            return Some(|what, source| Self::Files { what, limit: open_files(), source });
        }
        is_errno(source, Errno::NOMEM).then_some(|what, source| Self::Memory { what, source })
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The limit of open files, for a message. A process without one has that of the system.
fn open_files() -> String {
    getrlimit(Resource::Nofile).current.map_or_else(|| "fs.file-max".to_owned(), |limit| limit.to_string())
}

/// The next step for a user whose kernel does not report mappings.
fn next_of_mappings(why: &io::Error) -> &'static str {
    match why.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "raise the limit of open files (ulimit -n 65536) and restart ctrace"
        }
        Some(Errno::NOMEM) => "raise the memory limit of ctrace's cgroup (memory.max) and restart it",
        Some(Errno::PERM) => {
            "run ctrace as root or with CAP_PERFMON; if it has that, raise the limit of locked memory \
             (ulimit -l)"
        }
        _ => "run ctrace as root or with CAP_PERFMON, on a kernel with CONFIG_PERF_EVENTS=y",
    }
}

/// Whether the kernel returned EPERM, or EACCES, which it does for perf events and files.
pub(super) fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    is_errno(error, Errno::PERM) || is_errno(error, Errno::ACCESS)
}

pub(super) fn is_full(error: &MapError) -> bool {
    is_errno(error, Errno::TOOBIG)
}

/// Whether the map has no such key.
pub(super) fn is_absent(error: &MapError) -> bool {
    is_errno(error, Errno::NOENT)
}

/// Whether this error number is anywhere in the chain of causes.
fn is_errno(error: &(dyn std::error::Error + 'static), errno: Errno) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.raw_os_error() == Some(errno.raw_os_error())
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether we have the capabilities that every session needs. It is better to report this first than after
/// everything else.
pub(super) fn check_rights() -> Result<(), SessionError> {
    let lacking = Lacking::of(&Lacking::PROGRAMS);
    if lacking.is_empty() {
        return Ok(());
    }
    let source = Box::new(io::Error::from(Errno::PERM));
    Err(SessionError::NotPermitted { what: "loading BPF programs".to_owned(), lacking, source })
}

pub(super) fn missing(what: &'static str, config: &'static str) -> SessionError {
    SessionError::Kernel { what, config, release: release() }
}

/// The running kernel.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether the kernel has what every session needs.
pub(super) fn check_kernel() -> Result<(), SessionError> {
    if !features::has_sysfs() {
        return Err(SessionError::Sysfs);
    }
    if !std::path::Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
        return Err(missing("uprobes", "CONFIG_UPROBE_EVENTS=y"));
    }
    if rustix::process::geteuid().is_root() && !aya::features().bpf_cookie() {
        return Err(missing("BPF attach cookies", "CONFIG_BPF_SYSCALL=y and CONFIG_PERF_EVENTS=y"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_roots_is_a_missing_right_and_no_missing_mount() {
        let denied = SessionError::tracefs(io::Error::from(Errno::ACCESS));
        assert!(matches!(denied, SessionError::NotPermitted { .. }), "{denied}");
        let absent = SessionError::tracefs(io::Error::from(Errno::NOENT));
        assert!(matches!(absent, SessionError::Tracefs { .. }), "{absent}");
    }
}
