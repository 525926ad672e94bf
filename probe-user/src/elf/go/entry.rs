//! The entry site of a Go function: after the check whether the stack is large enough.
//!
//! If the stack is too small, the runtime allocates a larger one and restarts the function. A probe on the
//! first instruction would then fire twice for one call.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Register};

use crate::elf::VirtAddr;
use crate::elf::code::decode::{
    InstructionSite, bytes_of, has_bad_prefix, inside, instructions, is_emulated, target, writes,
};

/// Registers that the check must not write: those of integer arguments, the goroutine, and the stack pointer.
const KEPT: [Register; 12] = [
    Register::RAX,
    Register::RBX,
    Register::RCX,
    Register::RDI,
    Register::RSI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R14,
    Register::RSP,
    Register::RDX,
];

/// Longest check, in instructions: the comparison, for large frames the address to compare, and the jump.
const MAX_CHECK: usize = 8;

/// Where to place a probe in a Go function that starts with the check. None if it does not, or if the
/// instruction after the check cannot take a probe. `code` is the whole function.
pub(in crate::elf) fn after_stack_check(code: &[u8], address: VirtAddr) -> Option<InstructionSite> {
    let mut factory = InstructionInfoFactory::new();
    let mut decoded = instructions(code, address);
    let mut compared = false;
    let jump = decoded.by_ref().take(MAX_CHECK).find(|instruction| {
        compared |= is_comparison(instruction);
        let spoils = writes(&mut factory, instruction, &KEPT) && !loads_goroutine(instruction);
        instruction.flow_control() != FlowControl::Next || spoils
    })?;
    let grow = target(&jump).filter(|_| jump.flow_control() == FlowControl::ConditionalBranch)?;
    let forward = inside(code, address, grow) && grow.0 > jump.ip();
    if !(compared && forward && begins_again(code, address, grow)) {
        return None;
    }
    let next = decoded.next().filter(|next| !next.is_invalid())?;
    let bytes = bytes_of(code, &next, address);
    (!has_bad_prefix(bytes)).then(|| InstructionSite {
        offset: next.ip().wrapping_sub(address.0),
        emulated: is_emulated(bytes, &next),
    })
}

/// Before Go 1.17, where RCX does not carry an argument, the check loads the goroutine into it.
fn loads_goroutine(instruction: &Instruction) -> bool {
    instruction.op0_register() == Register::RCX && instruction.segment_prefix() == Register::FS
}

fn is_comparison(instruction: &Instruction) -> bool {
    instruction.mnemonic() == iced_x86::Mnemonic::Cmp
        && (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == iced_x86::OpKind::Memory
                && matches!(instruction.memory_base(), Register::R14 | Register::RCX)
        })
}

/// Whether the code at `grow` calls something and then jumps back to the entry.
fn begins_again(code: &[u8], address: VirtAddr, grow: VirtAddr) -> bool {
    let begin = usize::try_from(grow.0.wrapping_sub(address.0)).unwrap_or(usize::MAX);
    let rest = code.get(begin..).unwrap_or_default();
    let mut called = false;
    for instruction in instructions(rest, grow) {
        match instruction.flow_control() {
            FlowControl::Call => called = true,
            FlowControl::UnconditionalBranch => return called && target(&instruction) == Some(address),
            FlowControl::Next => {}
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::after_stack_check;
    use crate::elf::VirtAddr;
    use crate::elf::code::decode::InstructionSite;

    #[test]
    fn the_check_is_passed() {
        // The code: cmp 0x10(%r14),%rsp; jbe 0x0b; push %rbp; …; ret; call; jmp 0
        let good =
            [0x49, 0x3b, 0x66, 0x10, 0x76, 0x05, 0x55, 0x90, 0x90, 0x5d, 0xc3, 0xe8, 0, 1, 0, 0, 0xeb, 0xee];
        assert_eq!(
            after_stack_check(&good, VirtAddr(0)),
            Some(InstructionSite { offset: 6, emulated: true })
        );
        // The same check before Go 1.17: mov %fs:-8,%rcx; cmp 0x10(%rcx),%rsp.
        let old = [
            &[0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x48, 0x3b, 0x61, 0x10, 0x76, 0x05][..],
            &good[6..16],
            &[0xeb, 0xe5],
        ];
        assert_eq!(
            after_stack_check(&old.concat(), VirtAddr(0)),
            Some(InstructionSite { offset: 15, emulated: true })
        );
        // The last jump does not lead back to the entry.
        let mut other = good;
        other[17] = 0xef;
        assert_eq!(after_stack_check(&other, VirtAddr(0)), None);
        // A leaf function has no check.
        assert_eq!(after_stack_check(&[0x48, 0x01, 0xd8, 0xc3], VirtAddr(0)), None);
        assert_eq!(after_stack_check(&[], VirtAddr(0)), None);
    }
}
