//! Where probes go: at the entry of a function, inside it, at an address, and where it returns.
//!
//! Owns the reasons why one cannot. What is refused here would not fire, would fire for something else, or
//! would destroy the target.

use super::decode::{InstructionSite, UnprobeableCode, probe_site};
use super::function_body::{AmbiguousCode, Body, exact_site};
use crate::elf::go::after_stack_check;
use crate::elf::symbols::index::Index;
use crate::elf::symbols::select::{Function, Kind};
use crate::elf::{FileOffset, Found, Language, Object, ObjectError, VirtAddr};

/// Bytes of a function that are decoded: interpreters' main loops have some 100 KiB.
const MAX_BODY: u64 = 4 << 20;
/// Bytes that hold any instruction, and the longest prologue that is passed.
const PROLOGUE: u64 = 64;

/// Return instructions of one function: each takes a probe.
const MAX_RETURNS: usize = 4096;
/// Jumps out of a function that are looked at: whether they lead to a part of it.
const MAX_EXITS: usize = 256;
/// Parts of one function: compilers make one beside the main one.
const MAX_PARTS: usize = 4;

/// Why no probe goes there.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Its first instructions do not allow it.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An IFUNC.
    #[error(
        "it only chooses the function when the program is loaded (an IFUNC), and is not the function itself; \
         name one of the functions that it chooses from"
    )]
    Resolver,
    /// Behind the end.
    #[error("+{offset:#x} is behind its end: it has {size:#x} bytes")]
    Beyond {
        /// The offset.
        offset: u64,
        /// Its size.
        size: u64,
    },
    /// Not where an instruction begins.
    #[error("+{offset:#x} is in the middle of the instruction at +{begin:#x}")]
    NotBoundary {
        /// The offset.
        offset: u64,
        /// Where the instruction begins.
        begin: u64,
    },
    /// The code contradicts itself.
    #[error("whether an instruction begins at +{offset:#x} is not certain: {reason}")]
    Unclear {
        /// The offset.
        offset: u64,
        /// In which way.
        reason: AmbiguousCode,
    },
    /// Nothing tells where instructions begin.
    #[error(
        "address {address:#x} is in no function that the file names: whether an instruction begins there \
         cannot \
         be told"
    )]
    NoFunction {
        /// The address.
        address: u64,
    },
}

/// Why the return of a function cannot be seen, or not in this way.
#[derive(Debug, thiserror::Error)]
pub enum NoReturn {
    /// Go moves stacks.
    #[error(
        "a Go function: a return probe would crash it, because Go moves stacks; probe its return instructions"
    )]
    Go,
    /// A part of a function.
    #[error("it is a part of a function that is jumped to, and has no return address of its own")]
    Fragment,
    /// An IFUNC.
    #[error("it only chooses the function when the program is loaded (an IFUNC)")]
    Resolver,
    /// Nobody calls it.
    #[error("it is not called but started by the kernel: it has no return address")]
    Start,
    /// It looks at, or keeps, its return address.
    #[error("it {0}: a return probe would crash the program")]
    Special(&'static str),
    /// Its code is not understood.
    #[error("its return instructions are not known: {0}")]
    Unclear(#[from] AmbiguousCode),
    /// It never returns, as far as its code tells.
    #[error("its code has no return instruction")]
    Never,
    /// A return instruction that cannot be probed.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file does not allow it.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Where a function returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    /// Its `ret` instructions; the return value is in its registers, and the return address on the top of
    /// the stack.
    pub sites: Vec<(VirtAddr, FileOffset)>,
    /// Jumps out of it: what it jumps to returns in its place, at no site of the list.
    pub tail_jumps: usize,
    /// Where these lead to.
    pub jumps_to: Vec<VirtAddr>,
    /// Jumps to where a register or memory says: through a table inside, or out of it.
    pub indirect_jumps: usize,
}

impl Object {
    /// The place of a probe at the entry of a function: in Go behind the check of the stack's size, which
    /// begins the function again; otherwise moved past what the kernel does not handle, and fit for a return
    /// probe where [`Object::return_probe`] allows one.
    pub fn site(&self, function: &Function) -> Result<(FileOffset, InstructionSite), SiteError> {
        if function.kind == Kind::Resolver {
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

    /// The place of a probe inside a function: where an instruction begins, as its code tells from the entry
    /// on.
    pub fn site_at(
        &self,
        function: &Function,
        offset: u64,
    ) -> Result<(FileOffset, InstructionSite), SiteError> {
        if offset == 0 {
            self.site(function)
        } else {
            self.inner_site(function.address, function.size, offset)
        }
    }

    /// The place of a probe at an address, and the function that has it inside.
    pub fn site_at_address(
        &self,
        index: &Index,
        address: VirtAddr,
    ) -> Result<(FileOffset, InstructionSite, Found), SiteError> {
        self.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let found = index.at(address).ok_or(SiteError::NoFunction { address: address.0 })?;
        let (offset, site) = if found.offset == 0 {
            self.entry_site(found.address, found.size)?
        } else {
            self.inner_site(found.address, found.size, found.offset)?
        };
        Ok((offset, site, found))
    }

    /// The place of a probe at an address that no symbol names: as far as its own bytes tell, which may be
    /// the middle of an instruction.
    pub fn bare_site(&self, address: VirtAddr) -> Result<FileOffset, SiteError> {
        exact_site(&self.code(address, PROLOGUE)?, address, 0)?;
        Ok(self.place(address, 0)?)
    }

    /// Whether a return probe (the kernel's uretprobe) can be at the entry of a function. It replaces the
    /// return address on the stack, which must be there, and which nothing else may look at.
    ///
    /// C++ exceptions and Rust panics that leave the function through it cannot be unwound and end the
    /// program: [`Object::returns`] has no such danger.
    pub fn return_probe(&self, function: &Function) -> Result<(), NoReturn> {
        match function.kind {
            Kind::Resolver => return Err(NoReturn::Resolver),
            Kind::Fragment => return Err(NoReturn::Fragment),
            Kind::Body => {}
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

    /// The return instructions of a function, by its whole code and that of its cold parts.
    pub fn returns(&self, index: &Index, function: &Function) -> Result<Returns, NoReturn> {
        match function.kind {
            Kind::Resolver => return Err(NoReturn::Resolver),
            Kind::Fragment => return Err(NoReturn::Fragment),
            Kind::Body => {}
        }
        self.returns_of((function.address, function.size), |exit| self.fragment(index, exit))
    }

    /// The same of a function that no symbol names, whose code is in one part.
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
            let body = Body::decode(&code, address)?;
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

    /// The part of a function that has `address` inside.
    fn fragment(&self, index: &Index, address: VirtAddr) -> Option<(VirtAddr, u64)> {
        let found = index.at(address)?;
        let function = index.function_at(self, found.address)?;
        (function.kind == Kind::Fragment).then_some((found.address, found.size))
    }

    /// The place of a probe at the entry of a function that no symbol names.
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
        let body = Body::decode(&whole, entry).map_err(|reason| SiteError::Unclear { offset, reason })?;
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

/// What a function does with its return address, by its name.
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

#[cfg(test)]
mod tests;
