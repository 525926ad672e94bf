//! Where probes can be placed: at the entry of a function, inside it, at an address, and at its return sites.
//!
//! A place is refused, with the reason, if a probe there would not fire, would fire for something else, or
//! would break the traced program.

use super::decode::{InstructionSite, UnprobeableCode, probe_site};
use super::function_body::{AmbiguousCode, FunctionBody, exact_site};
use crate::elf::go::after_stack_check;
use crate::elf::symbols::index::Index;
use crate::elf::symbols::select::{ElfFunction, FunctionKind};
use crate::elf::{FileOffset, Language, LocatedFunction, Object, ObjectError, VirtAddr};

/// Largest function that is decoded, in bytes: main loops of interpreters have about 100 KiB.
const MAX_BODY: u64 = 4 << 20;
/// Enough bytes for any instruction, and for the longest prologue that is skipped.
const PROLOGUE: u64 = 64;

/// Limit of the return instructions of one function: each takes a probe.
const MAX_RETURNS: usize = 4096;
/// How many jumps out of a function are checked for leading to another part of it.
const MAX_EXITS: usize = 256;
/// Limit of the parts of one function: compilers split off one.
const MAX_PARTS: usize = 4;

/// Why a probe cannot be placed.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The first instructions of the function do not allow it.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file cannot be read there.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The function is an IFUNC resolver.
    #[error(
        "it only chooses the function when the program is loaded (an IFUNC), and is not the function itself; \
         name one of the functions that it chooses from"
    )]
    Resolver,
    /// The offset is beyond the end of the function.
    #[error("+{offset:#x} is beyond its end: it has {size:#x} bytes")]
    Beyond {
        /// The requested offset.
        offset: u64,
        /// The size of the function.
        size: u64,
    },
    /// The offset is not the start of an instruction.
    #[error("+{offset:#x} is in the middle of the instruction at +{begin:#x}")]
    NotBoundary {
        /// The requested offset.
        offset: u64,
        /// The start of the instruction that contains it.
        begin: u64,
    },
    /// The code contradicts itself, so instruction boundaries are uncertain.
    #[error("whether an instruction begins at +{offset:#x} is not certain: {reason}")]
    Unclear {
        /// The requested offset.
        offset: u64,
        /// The contradiction.
        reason: AmbiguousCode,
    },
    /// No function contains the address, so instruction boundaries are unknown.
    #[error(
        "address {address:#x} is in no function that the file names, so it is unknown whether an \
         instruction begins there"
    )]
    NoFunction {
        /// The requested address.
        address: u64,
    },
}

/// Why the return of a function cannot be probed, or not with a uretprobe.
#[derive(Debug, thiserror::Error)]
pub enum NoReturn {
    /// A Go function: Go moves stacks.
    #[error(
        "a Go function: a return probe would crash it, because Go moves stacks; probe its return instructions"
    )]
    Go,
    /// A part of a function, not a function of its own.
    #[error("it is a part of a function that is jumped to, and has no return address of its own")]
    Fragment,
    /// The function is an IFUNC resolver.
    #[error("it only chooses the function when the program is loaded (an IFUNC)")]
    Resolver,
    /// The function is the entry point of a program: nothing calls it.
    #[error("it is not called but started by the kernel: it has no return address")]
    Start,
    /// The function inspects or stores its return address.
    #[error("it {0}: a return probe would crash the program")]
    Special(&'static str),
    /// Its code cannot be decoded reliably.
    #[error("its return instructions cannot be determined: {0}")]
    Unclear(#[from] AmbiguousCode),
    /// Its code never returns, as far as it could be decoded.
    #[error("its code has no return instruction")]
    Never,
    /// One of its return instructions cannot take a probe.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file cannot be read there.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The return sites of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    /// Its `ret` instructions. There the return value is in its registers, and the return address is on top
    /// of the stack.
    pub sites: Vec<(VirtAddr, FileOffset)>,
    /// How many jumps leave it: what they lead to returns in its place, at none of the sites.
    pub tail_jumps: usize,
    /// The targets of these jumps.
    pub jumps_to: Vec<VirtAddr>,
    /// How many jumps go through a register or memory: by a jump table, or out of the function.
    pub indirect_jumps: usize,
}

impl Object {
    /// Where to place a probe at the entry of a function. In Go this is after the stack check, which restarts
    /// the function. Otherwise it is the first instruction that the kernel handles; it also serves a
    /// uretprobe where [`Object::return_probe`] allows one.
    pub fn site(&self, function: &ElfFunction) -> Result<(FileOffset, InstructionSite), SiteError> {
        if function.kind == FunctionKind::Resolver {
            return Err(SiteError::Resolver);
        }
        if function.language == Language::Go {
            let code = self.body(function.address, function.size)?;
            if let Some(site) = after_stack_check(&code, function.address) {
                return Ok((self.place(function.address, site.offset)?, site));
            }
        }
        self.entry_site(function.address, function.size)
    }

    /// Where to place a probe inside a function. The offset must be the start of an instruction when the code
    /// is decoded from the entry on.
    pub fn site_at(
        &self,
        function: &ElfFunction,
        offset: u64,
    ) -> Result<(FileOffset, InstructionSite), SiteError> {
        if offset == 0 {
            self.site(function)
        } else {
            self.inner_site(function.address, function.size, offset)
        }
    }

    /// Where to place a probe at an address, and the function that contains it.
    pub fn site_at_address(
        &self,
        index: &Index,
        address: VirtAddr,
    ) -> Result<(FileOffset, InstructionSite, LocatedFunction), SiteError> {
        self.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let found = index.at(address).ok_or(SiteError::NoFunction { address: address.0 })?;
        let (offset, site) = if found.offset == 0 {
            self.entry_site(found.address, found.size)?
        } else {
            self.inner_site(found.address, found.size, found.offset)?
        };
        Ok((offset, site, found))
    }

    /// Where to place a probe at an address that no symbol covers. Only the bytes there are checked, so it
    /// may still be the middle of an instruction.
    pub fn bare_site(&self, address: VirtAddr) -> Result<FileOffset, SiteError> {
        exact_site(&self.code(address, PROLOGUE)?, address, 0)?;
        Ok(self.place(address, 0)?)
    }

    /// Whether a uretprobe can be placed at the entry of a function. It replaces the return address on the
    /// stack, so there must be one, and nothing else may read it.
    ///
    /// A C++ exception or Rust panic that leaves the function cannot be unwound through it and ends the
    /// program. Probes at [`Object::returns`] do not have this danger.
    pub fn return_probe(&self, function: &ElfFunction) -> Result<(), NoReturn> {
        match function.kind {
            FunctionKind::Resolver => return Err(NoReturn::Resolver),
            FunctionKind::Fragment => return Err(NoReturn::Fragment),
            FunctionKind::Body => {}
        }
        if function.language == Language::Go {
            return Err(NoReturn::Go);
        }
        if function.address == self.entry() {
            return Err(NoReturn::Start);
        }
        let special = function.names.iter().find_map(|name| special(&name.raw));
        special.map_or(Ok(()), |why| Err(NoReturn::Special(why)))
    }

    /// The return instructions of a function, from its whole code and that of its cold parts.
    pub fn returns(&self, index: &Index, function: &ElfFunction) -> Result<Returns, NoReturn> {
        match function.kind {
            FunctionKind::Resolver => return Err(NoReturn::Resolver),
            FunctionKind::Fragment => return Err(NoReturn::Fragment),
            FunctionKind::Body => {}
        }
        self.returns_of((function.address, function.size), |exit| fragment(index, exit))
    }

    /// The same for a function that no symbol names and that has only one part.
    pub fn returns_without_symbols(&self, address: VirtAddr, size: u64) -> Result<Returns, NoReturn> {
        self.returns_of((address, size), |_| None)
    }

    fn returns_of(
        &self,
        function: (VirtAddr, u64),
        fragment: impl Fn(VirtAddr) -> Option<(VirtAddr, u64)>,
    ) -> Result<Returns, NoReturn> {
        let mut returns = Returns::default();
        let mut parts = vec![function];
        let (mut next, mut looked) = (0, 0);
        while let Some((address, size)) = parts.get(next).copied() {
            next += 1;
            let code = self.body(address, size)?;
            let body = FunctionBody::decode(&code, address)?;
            let found = returns.sites.len() + body.returns.len();
            if found > MAX_RETURNS {
                let (found, limit) = (found as u64, MAX_RETURNS as u64);
                let what = "the list of return instructions";
                return Err(ObjectError::TooLarge { what, found, limit }.into());
            }
            for offset in &body.returns {
                let inside = usize::try_from(*offset).unwrap_or(usize::MAX);
                let site = VirtAddr(address.0 + u64::from(*offset));
                exact_site(code.get(inside..).unwrap_or_default(), site, u64::from(*offset))?;
                returns.sites.push((site, self.place(site, 0)?));
            }
            returns.indirect_jumps += body.indirect_jumps;
            for exit in body.exits {
                if parts.iter().any(|(begin, size)| exit.0.wrapping_sub(begin.0) < *size) {
                    continue;
                }
                looked += 1;
                let part = if looked < MAX_EXITS { fragment(exit) } else { None };
                match part {
                    Some(part) if parts.len() < MAX_PARTS => parts.push(part),
                    _ => {
                        returns.tail_jumps += 1;
                        returns.jumps_to.extend(Some(exit).filter(|_| looked < MAX_EXITS));
                    }
                }
            }
        }
        if returns.sites.is_empty() && returns.tail_jumps + returns.indirect_jumps == 0 {
            return Err(NoReturn::Never);
        }
        returns.sites.sort_unstable();
        Ok(returns)
    }

    /// Where to place a probe at the entry of a function that no symbol names.
    pub fn entry_site(
        &self,
        address: VirtAddr,
        size: u64,
    ) -> Result<(FileOffset, InstructionSite), SiteError> {
        let bytes = self.code(address, if size == 0 { PROLOGUE } else { size.min(PROLOGUE) })?;
        let chosen = probe_site(&bytes, address)?;
        Ok((self.place(address, chosen.offset)?, chosen))
    }

    fn inner_site(
        &self,
        entry: VirtAddr,
        size: u64,
        offset: u64,
    ) -> Result<(FileOffset, InstructionSite), SiteError> {
        if offset >= size {
            return Err(SiteError::Beyond { offset, size });
        }
        let whole = self.body(entry, size)?;
        let body =
            FunctionBody::decode(&whole, entry).map_err(|reason| SiteError::Unclear { offset, reason })?;
        if !body.begins_at(offset) {
            return Err(SiteError::NotBoundary { offset, begin: body.before(offset) });
        }
        let address = VirtAddr(entry.0.saturating_add(offset));
        let exact = exact_site(&self.code(address, PROLOGUE)?, address, offset)?;
        Ok((self.place(entry, offset)?, exact))
    }

    fn place(&self, entry: VirtAddr, offset: u64) -> Result<FileOffset, ObjectError> {
        let address = VirtAddr(entry.0.saturating_add(offset));
        self.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })
    }

    /// The whole code of a function.
    pub(in crate::elf) fn body(&self, address: VirtAddr, size: u64) -> Result<Vec<u8>, ObjectError> {
        let segment = self.segments.executable(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let extent = segment.extent.tail(address.0 - segment.address).head(size);
        self.reader.bytes("the code of a function", extent, MAX_BODY)
    }
}

/// What a function does with its return address, judging by its name, that rules out a uretprobe.
fn special(name: &str) -> Option<&'static str> {
    let plain = name.trim_start_matches('_');
    match plain {
        "setjmp" | "sigsetjmp" | "getcontext" | "swapcontext" | "savectx" => {
            Some("keeps its return address for later")
        }
        "jump_fcontext" | "ontop_fcontext" | "coro_transfer" | "swapcontext_fast" => {
            Some("changes the stack")
        }
        "cxa_throw" | "cxa_rethrow" | "rust_start_panic" | "rust_panic" => {
            Some("starts the unwinding of the stack that it is called on")
        }
        "restore_rt" | "restore" | "morestack" => Some("is not called like a function"),
        _ if name.starts_with("_Unwind_") => Some("unwinds the stack that it is called on"),
        _ if plain.starts_with("dl_runtime_resolve") || plain.starts_with("dl_runtime_profile") => {
            Some("is not called like a function")
        }
        _ => None,
    }
}

/// The function part (such as `.cold`) that contains `address`.
fn fragment(index: &Index, address: VirtAddr) -> Option<(VirtAddr, u64)> {
    let found = index.at(address)?;
    let function = index.function_at(found.address)?;
    (function.kind == FunctionKind::Fragment).then_some((found.address, found.size))
}

#[cfg(test)]
mod tests;
