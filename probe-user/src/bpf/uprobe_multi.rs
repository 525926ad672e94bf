//! One link for all places of an object at which a program runs (`uprobe_multi`, Linux 6.6).
//!
//! A link to a perf event has one place, and the kernel takes a tenth of a second to remove it, with a lock
//! held that every other tracer of the machine needs. A link to many places is removed in one grace period,
//! without that lock.
//!
//! aya 0.14 can neither load a program with the attach type that this needs nor make such a link. So the
//! programs for functions are read from the object file once more, with aya's parser, and refer to the maps
//! that aya has created. Everything else stays aya's.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use aya::maps::{Map, MapData};
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfError};
use aya_obj::generated::bpf_insn;
use aya_obj::{Object, VerifierLog};
use rustix::io::Errno;

use super::SessionError;
use super::links::Link;
use super::loader::OBJECT_FILE;
use super::programs::{self, BpfProgram};
use super::sys::{self, AttachType, DebugInfo, InfoRecords, Moment, NewProgram, UprobePlace};
use crate::elf::FileOffset;

/// The room for what the verifier says of a program that it refuses. The kernel keeps the end of a longer
/// text.
const VERIFIER_LOG_BYTES: usize = 64 * 1024;

/// The programs for functions, as the kernel wants them for links to many places.
pub(super) struct MultiPrograms {
    code: Arc<ProgramCode>,
    loaded: BTreeMap<&'static str, OwnedFd>,
    /// Loads further programs.
    background: Option<JoinHandle<Vec<(&'static BpfProgram, OwnedFd)>>>,
}

/// What programs are loaded from.
pub(super) struct ProgramCode {
    object: Object,
    /// The object's types, if the kernel knows such.
    types: Option<OwnedFd>,
}

impl MultiPrograms {
    /// The programs of `code`, which refer to the maps of `ebpf`. To be called while `ebpf` has all of its
    /// maps, which must exist as long as programs are loaded.
    pub(super) fn new(code: ParsedCode, ebpf: &Ebpf) -> Result<Self, SessionError> {
        let code = Arc::new(code.relocate(ebpf).map_err(SessionError::load)?);
        Ok(Self { code, loaded: BTreeMap::new(), background: None })
    }

    /// What programs are loaded from, for several threads.
    pub(super) fn code(&self) -> &ProgramCode {
        &self.code
    }

    /// Adds a program that was loaded from [`MultiPrograms::code`] to be attached by multi-links.
    pub(super) fn add(&mut self, program: &BpfProgram, loaded: OwnedFd) {
        self.loaded.insert(program.name, loaded);
    }

    /// Loads programs on another thread, which ends with the session.
    pub(super) fn load_in_background(&mut self, programs: Vec<&'static BpfProgram>) {
        let code = Arc::downgrade(&self.code);
        let load = move || {
            // A program that the kernel refuses is loaded again when it is needed, which yields the error.
            let load = |program| Some((program, code.upgrade()?.load(program).ok()?));
            programs.into_iter().filter_map(load).collect()
        };
        // If there is no thread, they are loaded on first use.
        self.background = thread::Builder::new().name("verify".to_owned()).spawn(load).ok();
    }
}

/// The programs for functions, before maps exist.
pub(super) struct ParsedCode {
    object: Object,
    types: Option<Vec<u8>>,
}

impl ParsedCode {
    /// Reads the programs from the object file.
    pub(super) fn read() -> Result<Self, SessionError> {
        Self::parse().map_err(SessionError::load)
    }

    fn parse() -> Result<Self, EbpfError> {
        let mut object = Object::parse(OBJECT_FILE)?;
        let types = match aya::features().btf() {
            Some(btf) => object.fixup_and_sanitize_btf(btf)?.map(aya::Btf::to_bytes),
            None => None,
        };
        object.programs.retain(|name, _| programs::is_in_files(name));
        Ok(Self { object, types })
    }

    fn relocate(self, ebpf: &Ebpf) -> Result<ProgramCode, EbpfError> {
        let Self { mut object, types } = self;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = std::mem::take(&mut object.maps);
        let descriptors = maps.iter().filter_map(|(name, map)| {
            let data = ebpf.map(name).and_then(data)?;
            Some((name.as_str(), data.fd().as_fd().as_raw_fd(), map))
        });
        object.relocate_maps(descriptors, &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(aya::features());
        // Without them, the kernel's messages only have fewer names.
        let types = types.and_then(|types| sys::load_types(&types).ok());
        Ok(ProgramCode { object, types })
    }
}

impl ProgramCode {
    /// Loads a program.
    pub(super) fn load(&self, program: &BpfProgram) -> Result<OwnedFd, ProgramError> {
        let (name, attach_type) = (program.name, program.attach_type());
        let program = self.object.programs.get(name).ok_or(ProgramError::NotLoaded)?;
        let function = self.object.functions.get(&program.function_key()).ok_or(ProgramError::NotLoaded)?;
        let debug_info = self.types.as_ref().map(|types| DebugInfo {
            types: types.as_fd(),
            functions: InfoRecords {
                bytes: function.func_info.func_info_bytes(),
                record_bytes: function.func_info_rec_size,
            },
            lines: InfoRecords {
                bytes: function.line_info.line_info_bytes(),
                record_bytes: function.line_info_rec_size,
            },
        });
        let loaded = load(&NewProgram {
            name,
            attach_type,
            instructions: &function.instructions,
            license: &program.license,
            debug_info,
        })?;
        log_verifier_stats(name, &loaded);
        Ok(loaded)
    }
}

impl MultiPrograms {
    /// A program, loaded on first use.
    pub(super) fn program(&mut self, program: &BpfProgram) -> Result<BorrowedFd<'_>, SessionError> {
        let name = program.name;
        if !self.loaded.contains_key(name)
            && let Some(background) = self.background.take()
        {
            // A panic of the thread was reported where it happened.
            for (program, loaded) in background.join().unwrap_or_default() {
                self.add(program, loaded);
            }
        }
        if !self.loaded.contains_key(name) {
            let loaded = self.code.load(program);
            self.add(program, loaded.map_err(|source| SessionError::program(name, source))?);
        }
        let loaded = self.loaded.get(name).map(OwnedFd::as_fd);
        loaded.ok_or_else(|| SessionError::program(name, ProgramError::NotLoaded))
    }
}

/// Loads a program; the error has what the verifier says.
fn load(program: &NewProgram<'_>) -> Result<OwnedFd, ProgramError> {
    // Writing the log takes the kernel time, so it is only asked for when there is an error to explain.
    sys::load_program(program, &mut []).or_else(|_| {
        let mut log = vec![0; VERIFIER_LOG_BYTES];
        sys::load_program(program, &mut log).map_err(|io_error| {
            let text = CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy().into_owned());
            let verifier_log = VerifierLog::new(text.unwrap_or_default());
            ProgramError::LoadError { io_error, verifier_log }
        })
    })
}

/// The map's descriptor and size; none for kinds that the programs do not use.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::RingBuf(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

/// Logs how many steps the verifier took, which is among what the kernel shows of a descriptor.
fn log_verifier_stats(name: &str, program: &OwnedFd) {
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
    let steps = shown.ok().and_then(|shown| {
        shown.lines().find_map(|line| line.strip_prefix("verified_insns:")?.trim().parse::<u32>().ok())
    });
    super::loader::log_steps(name, steps.unwrap_or(0));
}

/// Attaches a program to places of a file, for all processes. All of them or none.
pub(super) fn link(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    (path, moment): (&Path, Moment),
    places: &[UprobePlace],
) -> io::Result<Link> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let link = sys::link_uprobes(program, attach_type, (&path, moment), places)?;
    Ok(Box::new(link))
}

/// A program that does nothing.
pub(super) struct IdleProgram {
    program: OwnedFd,
    attach_type: AttachType,
}

impl IdleProgram {
    /// Loads it. Needs the rights to load programs.
    pub(super) fn load(attach_type: AttachType) -> Result<Self, ProgramError> {
        let instruction = |code| bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
            off: 0,
            imm: 0,
        };
        // `r0 = 0; exit`, where 0xb7 is BPF_ALU64 | BPF_MOV | BPF_K and 0x95 is BPF_JMP | BPF_EXIT.
        let instructions = [instruction(0xb7), instruction(0x95)];
        let (name, license) = ("idle", c"GPL");
        let program =
            NewProgram { name, attach_type, instructions: &instructions, license, debug_info: None };
        load(&program).map(|program| Self { program, attach_type })
    }

    /// Whether the kernel has links for its attach type: then it refuses a directory because that is no
    /// regular file, and otherwise because it does not know the type.
    pub(super) fn can_be_linked(&self) -> bool {
        let refused = self.link(Path::new("/"));
        refused.is_err_and(|error| error.raw_os_error() == Some(Errno::BADF.raw_os_error()))
    }

    /// Attaches it to a file of our own that nobody maps.
    pub(super) fn attach_to_nothing(&self) -> io::Result<Link> {
        let file = super::attach_warmup::unmapped_file()?;
        // The kernel keeps the file for as long as the probe exists.
        self.link(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    fn link(&self, path: &Path) -> io::Result<Link> {
        let place = UprobePlace { offset: FileOffset(0), cookie: 0, semaphore: None };
        link(self.program.as_fd(), self.attach_type, (path, Moment::Reached), &[place])
    }
}
