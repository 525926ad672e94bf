//! Places a probe in a function that starts with instructions that uprobes cannot handle.
//!
//! Some builds pad instructions with meaningless prefixes so that branches do not cross a 32-byte boundary
//! (`-mbranches-within-32B-boundaries`), as in `cs push %r12`. The kernel accepts a probe there, but it never
//! fires. The probe is placed after such instructions instead.
//!
//! This file proves that the arguments are still in their registers there, and computes how far the stack
//! pointer has moved. A uretprobe cannot be used behind the prologue; see [`Object::returns`] for return
//! sites.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use probe_common::MAX_PUSHED;

use super::decode::{ARGUMENTS, InstructionSite, UnprobeableCode, instructions, target, writes};
use super::function_body::{AmbiguousCode, FunctionBody, exact_site};
use crate::elf::{FileOffset, Object, ObjectError, VirtAddr};

/// A place after the first instructions of a function at which its arguments are still in their registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostPrologueSite {
    /// The offset in the file.
    pub offset: FileOffset,
    /// How many words are between the top of the stack and the return address.
    pub pushed: u8,
}

/// Why a function has no such place.
#[derive(Debug, thiserror::Error)]
pub enum NoPostPrologueSite {
    /// Its first instructions do more than save registers.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// Its code cannot be decoded reliably.
    #[error(transparent)]
    Unclear(#[from] AmbiguousCode),
    /// A loop would pass the place twice in one call.
    #[error("its code jumps back to +{0:#x}, where the probe would be")]
    Again(u64),
    /// The file cannot be read there.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Object {
    /// The first place in a function at which a probe fires, if the code before it does nothing but push
    /// registers.
    pub fn late_entry(&self, address: VirtAddr, size: u64) -> Result<PostPrologueSite, NoPostPrologueSite> {
        let code = self.body(address, size)?;
        let (InstructionSite { offset, .. }, pushed) = late_site(&code, address)?;
        let behind = VirtAddr(address.0.saturating_add(offset));
        let offset = self.file_offset(behind).ok_or(ObjectError::NotCode { address: behind.0 })?;
        Ok(PostPrologueSite { offset, pushed })
    }
}

impl Object {
    /// The first place in a function whose instruction the kernel emulates, if the code before it neither
    /// branches nor writes an argument register. None if there is no such place.
    pub fn emulated_entry(&self, address: VirtAddr, size: u64) -> Option<PostPrologueSite> {
        let code = self.body(address, size).ok()?;
        let (entry, pushed) = emulated_site(&code, address)?;
        FunctionBody::decode(&code, address).ok()?;
        if leads_back(&code, address, entry.offset).is_some() {
            return None;
        }
        let offset = self.file_offset(VirtAddr(address.0.saturating_add(entry.offset)))?;
        Some(PostPrologueSite { offset, pushed })
    }
}

/// The instruction and the number of words between the top of the stack and the return address there.
fn emulated_site(code: &[u8], address: VirtAddr) -> Option<(InstructionSite, u8)> {
    let mut factory = InstructionInfoFactory::new();
    let mut pushed: u8 = 0;
    for instruction in instructions(code, address) {
        let offset = instruction.ip().wrapping_sub(address.0);
        let rest = code.get(usize::try_from(offset).ok()?..)?;
        let site = exact_site(rest, address, offset).ok();
        if let Some(site) = site.filter(|site| site.emulated && offset > 0) {
            return Some((site, pushed));
        }
        if instruction.is_invalid()
            || instruction.flow_control() != FlowControl::Next
            || writes(&mut factory, &instruction, &ARGUMENTS)
        {
            return None;
        }
        if writes(&mut factory, &instruction, &[Register::RSP]) {
            pushed = pushed.checked_add(grown_by(&instruction)?)?;
        }
    }
    None
}

/// By how many words an instruction moves the stack pointer down. None if that is not certain.
fn grown_by(instruction: &Instruction) -> Option<u8> {
    let is_immediate = !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
    match (instruction.mnemonic(), instruction.op0_register()) {
        (Mnemonic::Push, _) => (instruction.stack_pointer_increment() == -8).then_some(1),
        (Mnemonic::Sub, Register::RSP) if is_immediate => {
            let bytes = instruction.immediate(1);
            bytes.is_multiple_of(8).then(|| u8::try_from(bytes / 8).ok())?
        }
        _ => None,
    }
}

/// The first jump to the code between the entry and the probe, or to the probe.
fn leads_back(code: &[u8], address: VirtAddr, site: u64) -> Option<u64> {
    let targets = instructions(code, address).filter_map(|instruction| target(&instruction));
    targets.map(|to| to.0.wrapping_sub(address.0)).find(|to| (1..=site).contains(to))
}

/// [`Object::late_entry`] for `code`, the whole body.
fn late_site(code: &[u8], address: VirtAddr) -> Result<(InstructionSite, u8), NoPostPrologueSite> {
    FunctionBody::decode(code, address)?;
    let (site, pushed) = first_site(code, address)?;
    match leads_back(code, address, site.offset) {
        Some(to) => Err(NoPostPrologueSite::Again(to)),
        None => Ok((site, pushed)),
    }
}

fn first_site(code: &[u8], address: VirtAddr) -> Result<(InstructionSite, u8), UnprobeableCode> {
    let mut factory = InstructionInfoFactory::new();
    let mut pushed = 0;
    for instruction in instructions(code, address) {
        let offset = instruction.ip().wrapping_sub(address.0);
        let rest = code.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        if offset > 0
            && let Ok(site) = exact_site(rest, address, offset)
        {
            return Ok((site, pushed));
        }
        let saves = instruction.code() == Code::Push_r64 && pushed < MAX_PUSHED;
        let moves_stack = !saves && writes(&mut factory, &instruction, &[Register::RSP]);
        if instruction.is_invalid()
            || instruction.flow_control() != FlowControl::Next
            || writes(&mut factory, &instruction, &ARGUMENTS)
            || moves_stack
        {
            return Err(UnprobeableCode::Prefix(offset));
        }
        pushed += u8::from(saves);
    }
    Err(UnprobeableCode::Invalid(code.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::{NoPostPrologueSite, late_site};
    use crate::elf::VirtAddr;

    const AT: VirtAddr = VirtAddr(0x1000);

    /// The offset of the probe, and how many words were pushed before it.
    type Expected = Option<(u64, u8)>;

    #[test]
    fn behind_what_is_pushed() {
        // The first instructions of s2n_recv in the AWS runtime for Python.
        let s2n_recv = [
            0x2e, 0x2e, 0x2e, 0x2e, 0x41, 0x54, // cs cs cs cs push %r12
            0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x53, // cs cs cs cs cs push %rbx
            0x48, 0x83, 0xec, 0x08, // sub $8,%rsp
            0xc3,
        ];
        let cases: &[(&str, &[u8], Expected)] = &[
            ("s2n_recv", &s2n_recv, Some((12, 2))),
            ("cs push %rbx; sub", &[0x2e, 0x53, 0x48, 0x83, 0xec, 0x10, 0xc3], Some((2, 1))),
            (
                "cs push; cs pxor; mov %esi",
                &[0x2e, 0x53, 0x2e, 0x66, 0x0f, 0xef, 0xc0, 0xbe, 1, 0, 0, 0, 0xc3],
                Some((7, 1)),
            ),
            ("cs push; nop of five bytes; ret", &[0x2e, 0x53, 0x0f, 0x1f, 0x44, 0, 0, 0xc3], Some((7, 1))),
            ("cs sub $8,%rsp", &[0x2e, 0x48, 0x83, 0xec, 0x08, 0xc3], None),
            ("cs push; cs pop", &[0x2e, 0x53, 0x2e, 0x5b, 0xc3], None),
            ("cs push; cs mov %edi", &[0x2e, 0x53, 0x2e, 0xbf, 0, 0, 0, 0, 0xc3], None),
            ("cs push; cs jmp", &[0x2e, 0x53, 0x2e, 0xeb, 0x00, 0xc3], None),
            ("cs push; a loop to behind it", &[0x2e, 0x53, 0x90, 0xeb, 0xfd, 0xc3], None),
            ("cs push %rax", &[0x2e, 0x50].repeat(8), None),
            ("cs push and the end", &[0x2e, 0x53], None),
            ("not an instruction", &[0x2e, 0x53, 0x06], None),
            ("nothing", &[], None),
        ];
        for (name, code, expected) in cases {
            let found = late_site(code, AT).ok().map(|(site, pushed)| (site.offset, pushed));
            assert_eq!(found, *expected, "{name}");
        }
        let again = late_site(&[0x2e, 0x53, 0x90, 0xeb, 0xfd, 0xc3], AT);
        assert!(matches!(again, Err(NoPostPrologueSite::Again(2))), "{again:?}");
    }
}
