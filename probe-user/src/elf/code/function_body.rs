//! The whole code of a function: where its instructions start, and where it is left.
//!
//! Decodes from the entry to the end, and refuses code that contradicts itself (a jump into the middle of an
//! instruction, bytes that are not an instruction): a probe there could destroy an instruction of the traced
//! program.

use iced_x86::{Code, FlowControl};

use super::decode::{
    InstructionSite, UnprobeableCode, bytes_of, has_bad_prefix, inside, instructions, is_emulated, target,
};
use crate::elf::VirtAddr;

/// The decoded code of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::elf) struct FunctionBody {
    /// The offsets of its instructions from the entry.
    starts: Vec<u32>,
    /// The offsets of its `ret` instructions.
    pub returns: Vec<u32>,
    /// The targets of jumps out of the function.
    pub exits: Vec<VirtAddr>,
    /// How many jumps go through a register or memory: by a jump table, or out of the function.
    pub indirect_jumps: usize,
}

/// Why the code of a function could not be decoded reliably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousCode {
    /// The function has no code.
    #[error("it has no code")]
    Empty,
    /// The bytes are not an instruction.
    #[error("its code at +{0:#x} is not a valid instruction")]
    Invalid(u64),
    /// Decoding went out of step, or the code contains data.
    #[error("a jump in its code leads to +{0:#x}, the middle of an instruction")]
    Overlap(u64),
    /// A return to another code segment, as only kernels use.
    #[error("it returns at +{0:#x} with a far return, which ctrace does not handle")]
    FarReturn(u64),
}

impl FunctionBody {
    /// Decodes `code`, the whole body of the function at `address`.
    pub(in crate::elf) fn decode(code: &[u8], address: VirtAddr) -> Result<Self, AmbiguousCode> {
        let mut body = Self::default();
        let mut targets = Vec::new();
        for instruction in instructions(code, address) {
            let offset = instruction.ip().wrapping_sub(address.0);
            if instruction.is_invalid() {
                return Err(AmbiguousCode::Invalid(offset));
            }
            let short = u32::try_from(offset).map_err(|_| AmbiguousCode::Invalid(offset))?;
            body.starts.push(short);
            match instruction.flow_control() {
                FlowControl::Return => match instruction.code() {
                    Code::Retnq | Code::Retnq_imm16 => body.returns.push(short),
                    _ => return Err(AmbiguousCode::FarReturn(offset)),
                },
                FlowControl::IndirectBranch => body.indirect_jumps += 1,
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                    match target(&instruction) {
                        Some(to) if inside(code, address, to) => targets.push(to.0.wrapping_sub(address.0)),
                        Some(to) => body.exits.push(to),
                        // For example a `jmp` with a 16-bit offset, which no compiler generates.
                        None => body.indirect_jumps += 1,
                    }
                }
                _ => {}
            }
        }
        if body.starts.is_empty() {
            return Err(AmbiguousCode::Empty);
        }
        match targets.into_iter().find(|target| !body.begins_at(*target)) {
            Some(overlap) => Err(AmbiguousCode::Overlap(overlap)),
            None => Ok(body),
        }
    }

    /// Whether an instruction starts at this offset.
    pub(in crate::elf) fn begins_at(&self, offset: u64) -> bool {
        u32::try_from(offset).is_ok_and(|offset| self.starts.binary_search(&offset).is_ok())
    }

    /// The start of the instruction that contains `offset`.
    pub(in crate::elf) fn before(&self, offset: u64) -> u64 {
        let after = self.starts.partition_point(|start| u64::from(*start) <= offset);
        after.checked_sub(1).and_then(|last| self.starts.get(last)).map_or(0, |start| u64::from(*start))
    }
}

/// The one nop that the kernel replaces with a call of its own (`is_nop5_insn` in arch/x86/kernel/uprobes.c).
/// At the entry of a function this is harmless: the function has nothing below the stack pointer yet that the
/// pushed return address could overwrite.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Checks that a probe can be placed on exactly this instruction. `code` starts with it, at `offset` of a
/// function, which is not its entry.
pub(in crate::elf) fn exact_site(
    code: &[u8],
    address: VirtAddr,
    offset: u64,
) -> Result<InstructionSite, UnprobeableCode> {
    let instruction = instructions(code, address).next().filter(|instruction| !instruction.is_invalid());
    let instruction = instruction.ok_or(UnprobeableCode::Invalid(offset))?;
    let bytes = bytes_of(code, &instruction, address);
    if has_bad_prefix(bytes) {
        return Err(UnprobeableCode::Unhandled(offset));
    }
    if bytes == NOP5 {
        return Err(UnprobeableCode::RedZone(offset));
    }
    Ok(InstructionSite { offset, emulated: is_emulated(bytes, &instruction) })
}

#[cfg(test)]
mod tests {
    use super::{AmbiguousCode, FunctionBody, exact_site};
    use crate::elf::VirtAddr;
    use crate::elf::code::decode::{InstructionSite, UnprobeableCode};

    const AT: VirtAddr = VirtAddr(0x1000);

    #[test]
    fn bodies() {
        let body = |starts: &[u32], returns: &[u32], exits: &[u64], indirect_jumps| {
            let exits = exits.iter().map(|exit| VirtAddr(*exit)).collect();
            Ok(FunctionBody { starts: starts.to_vec(), returns: returns.to_vec(), exits, indirect_jumps })
        };
        let cases: &[(&str, &[u8], Result<FunctionBody, AmbiguousCode>)] = &[
            ("nothing", &[], Err(AmbiguousCode::Empty)),
            ("push; ret", &[0x55, 0xc3], body(&[0, 1], &[1], &[], 0)),
            ("ret 8; rep ret; int3", &[0xc2, 8, 0, 0xf3, 0xc3, 0xcc], body(&[0, 3, 5], &[0, 3], &[], 0)),
            ("a c3 in an immediate", &[0xb8, 0xc3, 0xc3, 0, 0, 0xc3], body(&[0, 5], &[5], &[], 0)),
            ("jmp out", &[0xe9, 0, 1, 0, 0], body(&[0], &[], &[0x1105], 0)),
            ("jne out; ret", &[0x75, 0x70, 0xc3], body(&[0, 2], &[2], &[0x1072], 0)),
            ("jmp *%rax", &[0xff, 0xe0], body(&[0], &[], &[], 1)),
            ("jmp to itself", &[0xeb, 0xfe], body(&[0], &[], &[], 0)),
            ("jmp into itself", &[0xeb, 0xff, 0xc0, 0xc0, 0], Err(AmbiguousCode::Overlap(1))),
            ("no instruction", &[0x90, 0x06], Err(AmbiguousCode::Invalid(1))),
            ("cut", &[0x90, 0xe8, 0], Err(AmbiguousCode::Invalid(1))),
            ("lret", &[0xcb], Err(AmbiguousCode::FarReturn(0))),
        ];
        for (name, code, expected) in cases {
            assert_eq!(FunctionBody::decode(code, AT), *expected, "{name}");
        }
        let decoded = FunctionBody::decode(&[0xb8, 0, 0, 0, 0, 0xc3], AT);
        assert_eq!(
            decoded.as_ref().map(|body| (body.before(3), body.before(5), body.begins_at(3))),
            Ok((0, 5, false))
        );
    }

    #[test]
    fn exact_sites() {
        assert_eq!(exact_site(&[0xc3], AT, 7), Ok(InstructionSite { offset: 7, emulated: false }));
        assert_eq!(exact_site(&[0x55, 0xff], AT, 7), Ok(InstructionSite { offset: 7, emulated: true }));
        assert_eq!(exact_site(&[0x2e, 0x90], AT, 7), Err(UnprobeableCode::Unhandled(7)));
        assert_eq!(exact_site(&[0x06], AT, 7), Err(UnprobeableCode::Invalid(7)));
        assert_eq!(exact_site(&[0x0f, 0x1f, 0x44, 0, 0], AT, 7), Err(UnprobeableCode::RedZone(7)));
        assert_eq!(
            exact_site(&[0x0f, 0x1f, 0x40, 0], AT, 7),
            Ok(InstructionSite { offset: 7, emulated: true })
        );
    }
}
