//! Hook and Plan: what would be attached where, as data.
//!
//! Pure and serialisable, in a deterministic order; `--dry-run` prints it. Only [`crate::bpf`] acts on it.

pub mod capture;
mod process_code;
pub mod program_set;
pub mod return_probe;
pub mod value_type;

use std::ops::Range;
use std::sync::Arc;

use probe_common::{CallShape, IoDirection};
use serde::Serialize;

use capture::Capture;
pub use process_code::ProcessCode;
use program_set::ProgramSet;
use return_probe::ReturnProbe;

use crate::elf::{ExitSite, FileOffset};
use crate::event::{Direction, Library};
use crate::proc::Device;
use crate::rootfs::RealInode;
use crate::scope::Scope;

/// A BPF program, named after what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeProgram {
    /// Entry and return of a function that sends or receives.
    Io,
    /// Entry and return of a function that returns the handle of a new connection.
    Open,
    /// Entry of any function, or a place inside it.
    Function,
    /// Entry and return of any function.
    FunctionAndReturn,
    /// Entry of a function whose first argument is the handle of a new connection.
    OpenFirst,
    /// Entry and return of a function that stores the handle of a new connection where its first argument
    /// points.
    OpenOutArg,
    /// Entry of a function that closes the connection in its first argument.
    Close,
    /// Entry and return of a function that does the handshake of the connection in its first argument.
    Handshake,
    /// Entry of a function whose first argument is the handle of a connection, which is new unless it is
    /// already open.
    OpenIfNew,
    /// Entry of a function that encrypts or decrypts, which shows that the enclosing calls belong to TLS
    /// connections.
    MarkTls,
    /// Entry and return of a function that sends or receives several buffers.
    IoVec,
    /// Entry of a function that always moves all of its bytes, so that its return does not matter.
    IoAtEntry,
    /// Entry of a function that calls back into the program with data. Its first argument is the connection
    /// handle.
    CallbackScope,
    /// The callback in such a function: its third argument is the address of the data, its fourth the length.
    CallbackData,
    /// Entry and return of a function that lends a buffer, or returns a packet.
    BorrowBuffer,
    /// Entry and return of a function that says where the data of a packet is.
    UnwrapPacket,
    /// Entry and return of a Go method that sends or receives.
    GoIo,
    /// Entry of a Go method that opens a connection.
    GoOpen,
    /// Entry of a Go method that closes a connection.
    GoClose,
}

impl ProbeProgram {
    /// Whether its records carry data.
    pub fn moves_bytes(self) -> bool {
        matches!(
            self,
            Self::Io | Self::CallbackData | Self::GoIo | Self::IoVec | Self::IoAtEntry | Self::UnwrapPacket
        )
    }

    /// Whether it reports that a connection is created.
    pub fn opens(self) -> bool {
        matches!(self, Self::Open | Self::OpenFirst | Self::OpenOutArg | Self::OpenIfNew | Self::GoOpen)
    }

    /// Whether the return of the function is probed.
    pub fn has_return(self) -> bool {
        matches!(
            self,
            Self::Io
                | Self::Open
                | Self::OpenOutArg
                | Self::Handshake
                | Self::IoVec
                | Self::BorrowBuffer
                | Self::UnwrapPacket
                | Self::FunctionAndReturn
                | Self::GoIo
        )
    }
}

/// A BPF program and a place in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// The BPF program to run there.
    pub program: ProbeProgram,
    /// The name of the function: a symbol, or for an internal function its name in the library's source.
    pub function: String,
    /// The public functions whose bytes pass here. Empty for constructors and destructors.
    #[serde(rename = "serves")]
    pub public_names: Vec<String>,
    /// The offset in the object's file.
    pub offset: FileOffset,
    /// How its return is probed.
    #[serde(skip_serializing_if = "ReturnProbe::is_none")]
    pub return_probe: ReturnProbe,
    /// Why its return is probed by the kernel although the user has not asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_reason: Option<String>,
    /// The places at which its return is probed. Empty if the kernel does that.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "offsets")]
    #[serde(rename = "ends")]
    pub exits: Vec<ExitSite>,
    /// The TLS library that the function is of, if another one names the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implementation: Option<Arc<HookImplementation>>,
    /// The file offset of a USDT semaphore, which the kernel increments while the hook is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semaphore: Option<FileOffset>,
    /// How the BPF program reads the arguments: the lower half of the [cookie](probe_common::cookie).
    #[serde(skip)]
    pub cookie_args: u32,
    /// For an internal function: the public function at each call site, by the low 12 bits of the return
    /// address (load addresses are whole pages). A call from elsewhere gets the name in `function`.
    #[serde(skip)]
    pub call_sites: Vec<(u16, &'static str)>,
    /// What is captured of the calls. None for TLS hooks, which have a fixed set of records.
    #[serde(skip)]
    pub capture: Option<Arc<Capture>>,
}

/// One of several TLS libraries in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookImplementation {
    /// Its name, such as `GnuTLS`.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
}

impl Hook {
    /// A hook of a public function, without the parts that only some hooks have.
    pub fn new(program: ProbeProgram, function: String, offset: FileOffset, cookie_args: u32) -> Self {
        Self {
            program,
            public_names: if program.moves_bytes() { vec![function.clone()] } else { Vec::new() },
            function,
            offset,
            return_probe: ReturnProbe::None,
            return_reason: None,
            exits: Vec::new(),
            implementation: None,
            semaphore: None,
            cookie_args,
            call_sites: Vec::new(),
            capture: None,
        }
    }

    /// Which way the bytes go that it reports. None if it reports none.
    pub fn direction(&self) -> Option<Direction> {
        let direction = || match CallShape::unpack(self.cookie_args).direction {
            IoDirection::Receive => Direction::Receive,
            IoDirection::Transmit => Direction::Transmit,
        };
        self.program.moves_bytes().then(direction)
    }

    /// The hook with its return probed at these places.
    #[must_use]
    pub fn with_exits(self, exits: Vec<ExitSite>) -> Self {
        Self { return_probe: ReturnProbe::at(&exits), exits, ..self }
    }

    /// The hook with its return probed by the kernel, for this reason if the user has not asked for it.
    #[must_use]
    pub fn with_kernel_return(self, return_reason: Option<String>) -> Self {
        Self { return_probe: ReturnProbe::Kernel, return_reason, ..self }
    }
}

fn offsets<S: serde::Serializer>(exits: &[ExitSite], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(exits.iter().map(|exit| exit.offset))
}

/// The kind of thing that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipKind {
    /// The mappings of a process could not be read.
    Mappings,
    /// A file, or a part of it.
    File,
    /// TLS in a file that ctrace recognises but cannot trace.
    Untraceable,
    /// Code that a process executes from a copy, or is asked to copy.
    CopiedCode,
    /// A file that could not be read, or a part of one that is not seen and that users do not expect to be.
    Unseen,
    /// What a library moves in one direction.
    OneDirection(Direction),
    /// A file in which the pattern with this index, which names no file, matches nothing.
    Unmatched(usize),
    /// A whole process: it maps nothing that could be traced.
    Process,
}

impl SkipKind {
    /// Whether users have to know of it, because what they want to see is there and is not seen.
    pub fn is_blind_spot(self) -> bool {
        match self {
            Self::Untraceable
            | Self::CopiedCode
            | Self::Unseen
            | Self::OneDirection(_)
            | Self::Unmatched(_) => true,
            Self::Mappings | Self::File | Self::Process => false,
        }
    }
}

/// The file in which something was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkippedFile {
    /// A file that was opened.
    Real(RealInode),
    /// A file that was not opened, as mappings show it: device and inode number.
    Shown(Device, u64),
}

/// Something that was inspected but not hooked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The kind of thing.
    #[serde(skip)]
    pub kind: SkipKind,
    /// The process. None if it does not concern a process.
    pub pid: Option<u32>,
    /// The file. None if it does not concern a file, but a process.
    #[serde(skip)]
    pub file: Option<SkippedFile>,
    /// The subject: a path inside the root of the process, or a step.
    #[serde(rename = "what")]
    pub subject: String,
    /// The reason.
    #[serde(rename = "why")]
    pub reason: String,
}

/// An object with hooks, attached or planned. The id is unique within one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ObjectId(pub u32);

/// The hooks of one object.
#[derive(Debug, Serialize)]
pub struct ObjectHooks {
    /// The id of the object.
    #[serde(skip)]
    pub id: ObjectId,
    /// The library, as in events.
    pub library: Arc<Library>,
    /// The opened file, through which hooks are attached.
    #[serde(skip)]
    pub file: Arc<crate::rootfs::ForeignFile>,
    /// The processes that map it. Empty if it is attached to before any process does.
    pub pids: Vec<u32>,
    /// If it is attached to before: one process of each root file system that has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub available_to: Vec<u32>,
    /// How functions without symbols were found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The ids of its hooks, in order: the upper half of their cookies.
    #[serde(skip)]
    pub sites: Range<u32>,
    /// The hooks, sorted by offset.
    pub hooks: Vec<Hook>,
}

/// Everything that would be done in the kernel.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// The kernel's filter.
    pub scope: Scope,
    /// The BPF programs needed besides those of the hooks, and the settings of all.
    #[serde(skip)]
    pub programs: ProgramSet,
    /// In the order in which the objects were found: by pid, then by address.
    pub objects: Vec<ObjectHooks>,
    /// What should perhaps have been hooked but was not.
    pub skipped: Vec<Skipped>,
    /// If more hooks are requested than allowed: the message for the user.
    #[serde(skip)]
    pub over_limit: Option<String>,
    /// Files without anything to hook: each once, in the process in which it was found first.
    pub foreign: Vec<Skipped>,
}

impl Plan {
    /// Whether a process maps something that is hooked, or is about to.
    pub fn has_users(&self) -> bool {
        self.objects.iter().any(|object| !object.pids.is_empty())
    }

    /// Drops all reasons that concern a process.
    pub fn forget(&mut self, pid: u32) {
        let is_of_another = |skipped: &Skipped| skipped.pid != Some(pid);
        self.skipped.retain(is_of_another);
        self.foreign.retain(is_of_another);
    }
}
