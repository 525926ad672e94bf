//! Hook and Plan: what would be attached where, as data.
//!
//! Pure and serialisable, in a deterministic order; `--dry-run` prints it. Only [`crate::bpf`] acts on it.

pub mod capture;
pub mod program_set;
pub mod value_type;

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use capture::Capture;
use program_set::ProgramSet;

use crate::elf::FileOffset;
use crate::event::Library;
use crate::scope::Scope;

/// A BPF program, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeProgram {
    /// Entry and return of a function that moves bytes.
    Io,
    /// Entry of a function that moves bytes, behind what it pushes, and its ends.
    IoAtRets,
    /// Return of a function that returns a new connection's handle.
    Open,
    /// Ends of a function that returns a new connection's handle.
    OpenAtRets,
    /// A function, where it begins, or a place in it.
    Function,
    /// A function, where it begins and where it returns to.
    FunctionAndReturn,
    /// A function, where it begins and at each of its instructions that return.
    FunctionAndRets,
    /// Entry of a function whose first argument is the handle of a connection that begins.
    OpenFirst,
    /// Entry and return of a function that puts a new connection's handle where its first argument points to.
    OpenOutArg,
    /// Entry of a function whose first argument is the handle of a connection that ends.
    Close,
    /// Entry and return of a function that does the handshake of the connection in its first argument.
    Handshake,
    /// Entry of a function whose first argument is the handle of a connection that begins, unless it has
    /// begun already.
    OpenIfNew,
    /// Entry of a function that encrypts or decrypts: the calls that it is a part of are of connections.
    MarkTls,
    /// Entry and return of a function that moves several pieces of memory.
    IoVec,
    /// Entry of a function that moves several pieces of memory, and its ends.
    IoVecAtRets,
    /// Entry of a function that moves all of its bytes.
    IoAtEntry,
    /// Entry of a function that hands bytes to its program from inside: its first argument is the
    /// connection's handle.
    CallbackScope,
    /// A call inside of such a function that hands over bytes: its third argument has their address, its
    /// fourth their number.
    CallbackData,
    /// Entry and return of a function that lends bytes, or hands over a packet.
    BorrowBuffer,
    /// Entry and return of a function that says where the bytes of a packet are.
    UnwrapPacket,
    /// Entry of a method of Go that moves bytes, and its ends.
    GoIo,
    /// Entry of a method of Go that begins a connection.
    GoOpen,
    /// Entry of a method of Go that ends a connection.
    GoClose,
}

impl ProbeProgram {
    /// Whether its records tell of bytes.
    pub fn moves_bytes(self) -> bool {
        matches!(
            self,
            Self::Io
                | Self::IoAtRets
                | Self::CallbackData
                | Self::GoIo
                | Self::IoVec
                | Self::IoVecAtRets
                | Self::IoAtEntry
                | Self::UnwrapPacket
        )
    }
}

/// A BPF program and a place in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// What runs there.
    pub program: ProbeProgram,
    /// The function's name: a symbol, or the name in the library's source of an internal one.
    pub function: String,
    /// The public functions whose bytes pass here; empty for what makes or ends a connection.
    #[serde(rename = "serves")]
    pub public_names: Vec<String>,
    /// Where, in the object's file.
    pub offset: FileOffset,
    /// Where it returns, for a program that looks at these instructions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "ends")]
    pub ret_offsets: Vec<FileOffset>,
    /// A counter in the file that the kernel raises while the hook is attached: the program looks at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semaphore: Option<FileOffset>,
    /// How to read its arguments, for the kernel: the lower half of its [cookie](probe_common::cookie).
    #[serde(skip)]
    pub cookie_args: u32,
    /// For an internal function: the public function per call site, by the low 12 bits of the return
    /// address (load addresses are whole pages). A call from elsewhere bears the name in `function`.
    #[serde(skip)]
    pub call_sites: Vec<(u16, &'static str)>,
    /// What is read of a function's calls; none for [`ProbeProgram::Io`] and [`ProbeProgram::Open`].
    #[serde(skip)]
    pub capture: Option<Arc<Capture>>,
}

impl Hook {
    /// A hook of a public function, with nothing that only some have.
    pub fn new(program: ProbeProgram, function: String, offset: FileOffset, cookie_args: u32) -> Self {
        Self {
            program,
            public_names: if program.moves_bytes() { vec![function.clone()] } else { Vec::new() },
            function,
            offset,
            ret_offsets: Vec::new(),
            semaphore: None,
            cookie_args,
            call_sites: Vec::new(),
            capture: None,
        }
    }
}

/// What is not attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipKind {
    /// What a process maps could not be read.
    Mappings,
    /// A file, or a part of it.
    File,
    /// The TLS in a file: ctrace knows it, and cannot trace it.
    Untraceable,
    /// A process as a whole: nothing in it is watched.
    Process,
}

/// Something that was looked at and not attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What kind of thing it is.
    #[serde(skip)]
    pub lack: SkipKind,
    /// In which process; none when it is not about one.
    pub pid: Option<u32>,
    /// What: a path inside the process's root, or a step.
    #[serde(rename = "what")]
    pub subject: String,
    /// Why not.
    #[serde(rename = "why")]
    pub reason: String,
}

/// An object that is attached to, or will be: unique in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ObjectId(pub u32);

/// The hooks of one object.
#[derive(Debug, Serialize)]
pub struct ObjectHooks {
    /// Which object it is.
    #[serde(skip)]
    pub id: ObjectId,
    /// The library, as events name it.
    pub library: Arc<Library>,
    /// The file; hooks are attached through it.
    #[serde(skip)]
    pub file: Arc<crate::rootfs::ForeignFile>,
    /// Processes that map it.
    pub pids: Vec<u32>,
    /// How functions were found that the file does not name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// Numbers of its hooks, in their order: the upper half of their cookies.
    #[serde(skip)]
    pub sites: Range<u32>,
    /// In the order of their offsets.
    pub hooks: Vec<Hook>,
}

/// Everything that will be done in the kernel.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// The filter.
    pub scope: Scope,
    /// The BPF programs beside those of the hooks, and what all are set to.
    #[serde(skip)]
    pub programs: ProgramSet,
    /// In the order in which the objects were found (by pid, then address).
    pub objects: Vec<ObjectHooks>,
    /// What should perhaps have been hooked, and was not.
    pub skipped: Vec<Skipped>,
    /// More is asked for than may be hooked, in words.
    #[serde(skip)]
    pub over_limit: Option<String>,
    /// Files without anything to hook, each once, in the process in which it was seen first.
    pub foreign: Vec<Skipped>,
}

impl Plan {
    /// Keeps no reason about a process.
    pub fn forget(&mut self, pid: u32) {
        let is_of_another = |skipped: &Skipped| skipped.pid != Some(pid);
        self.skipped.retain(is_of_another);
        self.foreign.retain(is_of_another);
    }
}
