//! Where probes go: at the entry of a function, inside it, at an address, and where it returns.
//!
//! Owns the reasons why one cannot. What is refused here would not fire, would fire for something else, or
//! would destroy the target.

use super::body::{Body, Unclear, exact_site};
use super::code::{NoSite, Site, probe_site};
use super::go::after_stack_check;
use super::index::Index;
use super::select::{Function, Kind};
use super::{FileOffset, Found, Language, Object, ObjectError, VirtAddr};

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
pub enum NoPlace {
    /// Its first instructions do not allow it.
    #[error(transparent)]
    Site(#[from] NoSite),
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
        reason: Unclear,
    },
    /// Nothing tells where instructions begin.
    #[error(
        "address {address:#x} is in no function that the file names: whether an instruction begins there cannot \
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
    Unclear(#[from] Unclear),
    /// It never returns, as far as its code tells.
    #[error("its code has no return instruction")]
    Never,
    /// A return instruction that cannot be probed.
    #[error(transparent)]
    Site(#[from] NoSite),
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
    /// Jumps to where a register or memory says: through a table inside, or out of it.
    pub indirect_jumps: usize,
}

impl Object {
    /// The place of a probe at the entry of a function: in Go behind the check of the stack's size, which begins
    /// the function again; otherwise moved past what the kernel does not handle, and fit for a return probe where [`Object::return_probe`] allows one.
    pub fn site(&self, function: &Function) -> Result<(FileOffset, Site), NoPlace> {
        if function.kind == Kind::Resolver {
            return Err(NoPlace::Resolver);
        }
        if function.language == Language::Go {
            let code = self.body(function.address, function.size)?;
            if let Some(site) = after_stack_check(&code, function.address) {
                return Ok((self.place(function.address, site.offset)?, site));
            }
        }
        self.entry_site(function.address, function.size)
    }

    /// The place of a probe inside a function: where an instruction begins, as its code tells from the entry on.
    pub fn site_at(&self, function: &Function, offset: u64) -> Result<(FileOffset, Site), NoPlace> {
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
    ) -> Result<(FileOffset, Site, Found), NoPlace> {
        self.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        let found = index.at(address).ok_or(NoPlace::NoFunction { address: address.0 })?;
        let (offset, site) = if found.offset == 0 {
            self.entry_site(found.address, found.size)?
        } else {
            self.inner_site(found.address, found.size, found.offset)?
        };
        Ok((offset, site, found))
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
        let mut returns = Returns::default();
        let mut parts = vec![(function.address, function.size)];
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
                let part = if looked < MAX_EXITS { self.fragment(index, exit) } else { None };
                match part {
                    Some(part) if parts.len() < MAX_PARTS => parts.push(part),
                    _ => returns.tail_jumps += 1,
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

    fn entry_site(&self, address: VirtAddr, size: u64) -> Result<(FileOffset, Site), NoPlace> {
        let bytes = self.code(address, if size == 0 { PROLOGUE } else { size.min(PROLOGUE) })?;
        let chosen = probe_site(&bytes, address)?;
        Ok((self.place(address, chosen.offset)?, chosen))
    }

    fn inner_site(&self, entry: VirtAddr, size: u64, offset: u64) -> Result<(FileOffset, Site), NoPlace> {
        if offset >= size {
            return Err(NoPlace::Beyond { offset, size });
        }
        let whole = self.body(entry, size)?;
        let body = Body::decode(&whole, entry).map_err(|reason| NoPlace::Unclear { offset, reason })?;
        if !body.begins_at(offset) {
            return Err(NoPlace::NotBoundary { offset, begin: body.before(offset) });
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
    fn body(&self, address: VirtAddr, size: u64) -> Result<Vec<u8>, ObjectError> {
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic fails the test")]

    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{NoPlace, NoReturn, Unclear, special};
    use crate::object::fixture::{compile, parse};
    use crate::object::{Function, Index, Kind, Object, ObjectError, VirtAddr, Wanted};

    fn one(object: &Object, index: &Index, asked: &str) -> Function {
        index.select(object, 10, |name| name.is(asked)).unwrap().remove(0)
    }

    #[test]
    fn places_in_functions() {
        let source = r#"
            __asm__(".text\n.globl f\n.type f,@function\nf: push %rbx\n mov $0xc3c3c3, %eax\n test %eax,%eax\n jne 1f\n"
                    " pop %rbx\n ret\n1: pop %rbx\n jmp g\n.size f,.-f\n"
                    ".globl odd\n.type odd,@function\nodd: jmp . + 3\n .byte 0xb8,0x90,0x90,0x90,0x90\n ret\n.size odd,.-odd\n"
                    ".globl spin\n.type spin,@function\nspin: jmp spin\n.size spin,.-spin\n");
            int g(void) { return 0; }
        "#;
        let directory = compile(source, &["-shared"]);
        let object = parse(&directory.path().join("fixture"), &Wanted::default()).unwrap();
        let index = object.index().unwrap();
        let f = one(&object, &index, "f");
        let entry = object.site(&f).unwrap();
        assert_eq!(object.address(entry.0), Some(f.address));
        assert!(entry.1.emulated);
        assert_eq!(object.site_at(&f, 1).unwrap().0.0, entry.0.0 + 1);
        assert!(matches!(object.site_at(&f, 3), Err(NoPlace::NotBoundary { offset: 3, begin: 1 })));
        assert!(matches!(object.site_at(&f, f.size), Err(NoPlace::Beyond { .. })));
        let (offset, site, found) = object.site_at_address(&index, VirtAddr(f.address.0 + 6)).unwrap();
        assert_eq!((offset.0, site.offset, found.address), (entry.0.0 + 6, 6, f.address));
        assert!(matches!(object.site_at_address(&index, VirtAddr(1)), Err(NoPlace::Object(_))));
        let returns = object.returns(&index, &f).unwrap();
        assert_eq!((returns.sites.len(), returns.tail_jumps, returns.indirect_jumps), (1, 1, 0));
        assert_eq!(returns.sites.first().unwrap().0.0, f.address.0 + 11);
        object.return_probe(&f).unwrap();
        let odd = one(&object, &index, "odd");
        assert!(matches!(object.returns(&index, &odd), Err(NoReturn::Unclear(Unclear::Overlap(3)))));
        assert!(matches!(object.site_at(&odd, 2), Err(NoPlace::Unclear { .. })));
        assert!(matches!(object.returns(&index, &one(&object, &index, "spin")), Err(NoReturn::Never)));
    }

    #[test]
    fn cold_parts_belong_to_their_function() {
        let source = r#"
            __asm__(".text\n.globl f\n.type f,@function\nf: test %edi,%edi\n jne f.cold\n ret\n.size f,.-f\n"
                    ".type f.cold,@function\nf.cold: nop\n ret\n jmp f\n.size f.cold,.-f.cold\n");
        "#;
        let directory = compile(source, &["-shared", "-Wl,-Bsymbolic"]);
        let object = parse(&directory.path().join("fixture"), &Wanted::default()).unwrap();
        let index = object.index().unwrap();
        let returns = object.returns(&index, &one(&object, &index, "f")).unwrap();
        assert_eq!((returns.sites.len(), returns.tail_jumps), (2, 0));
        let cold = one(&object, &index, "f.cold");
        assert!(matches!(object.return_probe(&cold), Err(NoReturn::Fragment)));
    }

    #[test]
    fn absurd_functions_cost_little() {
        let source = r#"
            __asm__(".text\n.type rets,@function\nrets: .fill 3000000,1,0xc3\n.size rets,.-rets\n"
                    ".type jumps,@function\njumps: .rept 400000\n jmp far\n .endr\n.size jumps,.-jumps\n"
                    ".type far,@function\nfar: ret\n.size far,1\n");
        "#;
        let directory = compile(source, &["-shared"]);
        let object = parse(&directory.path().join("fixture"), &Wanted::default()).unwrap();
        let index = object.index().unwrap();
        let begun = Instant::now();
        let rets = object.returns(&index, &one(&object, &index, "rets"));
        assert!(matches!(rets, Err(NoReturn::Object(ObjectError::TooLarge { .. }))), "{rets:?}");
        let jumps = object.returns(&index, &one(&object, &index, "jumps")).unwrap();
        assert!(jumps.sites.is_empty() && jumps.tail_jumps > 100_000);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_must_not_be_probed() {
        let directory = compile("int main(void) { return 0; }", &[]);
        let object = parse(&directory.path().join("fixture"), &Wanted::default()).unwrap();
        let start = object.index().unwrap().function_at(&object, object.entry()).unwrap();
        assert_eq!(start.shown(), "_start");
        assert!(matches!(object.return_probe(&start), Err(NoReturn::Start)));
        let libc = Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6");
        let object = parse(libc, &Wanted::default()).unwrap();
        let index = object.index().unwrap();
        let refused = |name| object.return_probe(&one(&object, &index, name)).is_err();
        assert!(refused("__sigsetjmp") && refused("getcontext") && !refused("getaddrinfo"));
        let resolver = index.select(&object, 10, |name| name.is("memcpy")).unwrap();
        let resolver = resolver.iter().find(|function| function.kind == Kind::Resolver).unwrap();
        assert!(matches!(object.site(resolver), Err(NoPlace::Resolver)));
        assert!(special("_Unwind_Resume").is_some() && special("main").is_none());
    }

    #[test]
    fn most_functions_of_libc_are_understood() {
        let object = parse(Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"), &Wanted::default()).unwrap();
        let index = object.index().unwrap();
        let functions = index.select(&object, 100_000, |_| true).unwrap();
        let bodies: Vec<_> = functions.iter().filter(|function| function.kind == Kind::Body).collect();
        let refused = bodies.iter().filter(|function| object.site(function).is_err()).count();
        assert!(refused < 5, "{refused} of {}", bodies.len());
        let count = |wanted: fn(&NoReturn) -> bool| {
            bodies
                .iter()
                .filter(|function| object.returns(&index, function).is_err_and(|error| wanted(&error)))
                .count()
        };
        assert!(count(|error| matches!(error, NoReturn::Unclear(_))) * 50 < bodies.len());
    }
}
