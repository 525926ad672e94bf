//! Decodes x86-64 instructions: where a probe may be placed, and where a function's calls lead.
//!
//! All decisions about machine code are made in this room. Decoding starts at the entry of a function and
//! never guesses: what the instructions do not prove is refused with a reason.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register,
};

use crate::elf::VirtAddr;

/// The registers of the first six arguments (System V AMD64 ABI, section 3.2.3).
pub(in crate::elf) const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// The instruction on which a probe is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSite {
    /// Its distance from the entry in bytes.
    pub offset: u64,
    /// Whether the kernel emulates the instruction. If not, each hit costs a single step on top.
    pub emulated: bool,
}

/// Why a function's code cannot take a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnprobeableCode {
    /// The bytes are not an instruction.
    #[error("its code at +{0:#x} is not a valid instruction")]
    Invalid(u64),
    /// The kernel would never fire there, and after this instruction the arguments may be gone.
    #[error(
        "its instruction at +{0:#x} has a prefix that uprobes cannot handle, and behind it the arguments may be \
         lost"
    )]
    Prefix(u64),
    /// The kernel would never fire there.
    #[error("its instruction at +{0:#x} has a prefix that uprobes cannot handle: choose another offset")]
    Unhandled(u64),
    /// The kernel may replace the instruction with a call.
    #[error(
        "its instruction at +{0:#x} is a five-byte nop: Linux 6.18 and newer replace it with a call, which \
         would overwrite what the function has below its stack pointer (the red zone); choose another offset"
    )]
    RedZone(u64),
}

/// The size of a call with a constant target.
pub const CALL_BYTES: u64 = 5;

/// Finds the instruction for a uprobe that also serves a uretprobe: the arguments are in their registers and
/// the return address is on top of the stack, as at the entry.
///
/// The kernel accepts a probe on an instruction with a CS, DS, ES, SS or LOCK prefix, but it never fires
/// (`is_prefix_bad` in arch/x86/kernel/uprobes.c). Such instructions are skipped if that is harmless.
pub fn probe_site(code: &[u8], address: VirtAddr) -> Result<InstructionSite, UnprobeableCode> {
    let mut factory = InstructionInfoFactory::new();
    let mut endbr = None;
    for instruction in instructions(code, address) {
        let offset = instruction.ip().wrapping_sub(address.0);
        if instruction.is_invalid() {
            return endbr.ok_or(UnprobeableCode::Invalid(offset));
        }
        let bytes = bytes_of(code, &instruction, address);
        let prefixed = has_bad_prefix(bytes);
        if !prefixed && is_emulated(bytes, &instruction) {
            return Ok(InstructionSite { offset, emulated: true });
        }
        if let Some(site) = endbr {
            return Ok(site);
        }
        if instruction.code() == Code::Endbr64 {
            // An endbr64 would be single-stepped, and is often followed by a push, which the kernel emulates.
            endbr = Some(InstructionSite { offset, emulated: false });
        } else if !prefixed {
            return Ok(InstructionSite { offset, emulated: false });
        } else if instruction.flow_control() != FlowControl::Next
            || writes(&mut factory, &instruction, &ARGUMENTS)
            || writes(&mut factory, &instruction, &[Register::RSP])
        {
            return Err(UnprobeableCode::Prefix(offset));
        }
    }
    endbr.ok_or(UnprobeableCode::Invalid(code.len() as u64))
}

/// Whether a probe at the first instruction of `code` ever fires.
pub fn check_prefix(code: &[u8], address: VirtAddr) -> Result<(), UnprobeableCode> {
    match instructions(code, address).next() {
        Some(first) if !first.is_invalid() => {
            if has_bad_prefix(bytes_of(code, &first, address)) {
                Err(UnprobeableCode::Prefix(0))
            } else {
                Ok(())
            }
        }
        _ => Err(UnprobeableCode::Invalid(0)),
    }
}

/// The function to which `code` forwards its own arguments: before the first call (or jump out of the
/// function) it neither branches nor writes an argument register.
pub fn forwarder(code: &[u8], address: VirtAddr) -> Option<VirtAddr> {
    let mut factory = InstructionInfoFactory::new();
    for instruction in instructions(code, address) {
        if instruction.is_invalid() {
            return None;
        }
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::Call | FlowControl::UnconditionalBranch => {
                return target(&instruction).filter(|target| !inside(code, address, *target));
            }
            _ => return None,
        }
        if writes(&mut factory, &instruction, &ARGUMENTS) {
            return None;
        }
    }
    None
}

/// A call, or a tail jump to another function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSite {
    /// The address of the next instruction. The callee returns there, unless this is a jump.
    pub return_address: VirtAddr,
    /// The address of the callee.
    pub target: VirtAddr,
    /// Whether this is a jump: the callee then returns to the caller of this function.
    pub tail: bool,
}

impl CallSite {
    /// The address of the call itself, if it has a constant target.
    pub fn address(&self) -> VirtAddr {
        VirtAddr(self.return_address.0.saturating_sub(CALL_BYTES))
    }
}

/// The calls of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallTargets {
    /// Calls and jumps out of the function with a constant target, in code order.
    pub direct: Vec<CallSite>,
    /// How many calls and jumps go through a register or memory.
    pub indirect: usize,
    /// Whether all of the code could be decoded.
    pub complete: bool,
}

/// The calls of a function. `code` is its whole body.
pub fn calls(code: &[u8], address: VirtAddr) -> CallTargets {
    let mut calls = CallTargets { complete: true, ..CallTargets::default() };
    for instruction in instructions(code, address) {
        if instruction.is_invalid() {
            calls.complete = false;
            break;
        }
        let tail = match instruction.flow_control() {
            FlowControl::Call => false,
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => true,
            FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                calls.indirect += 1;
                continue;
            }
            _ => continue,
        };
        match target(&instruction) {
            Some(to) if tail && inside(code, address, to) => {}
            Some(target) => {
                let return_address = VirtAddr(instruction.next_ip());
                calls.direct.push(CallSite { return_address, target, tail });
            }
            None => calls.indirect += 1,
        }
    }
    calls
}

/// The GOT slot that a PLT stub jumps through. None if the code is not such a stub.
pub fn plt_slot(code: &[u8], address: VirtAddr) -> Option<VirtAddr> {
    let first = instructions(code, address).find(|instruction| instruction.code() != Code::Endbr64)?;
    let through_memory = first.flow_control() == FlowControl::IndirectBranch
        && first.op0_kind() == OpKind::Memory
        && first.is_ip_rel_memory_operand();
    through_memory.then(|| VirtAddr(first.ip_rel_memory_address()))
}

/// All instructions. The last one may be invalid.
pub(in crate::elf) fn instructions(code: &[u8], address: VirtAddr) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, code, address.0, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
}

pub(in crate::elf) fn bytes_of<'c>(code: &'c [u8], instruction: &Instruction, address: VirtAddr) -> &'c [u8] {
    let begin = usize::try_from(instruction.ip().wrapping_sub(address.0)).unwrap_or(usize::MAX);
    code.get(begin..).and_then(|rest| rest.get(..instruction.len())).unwrap_or_default()
}

pub(in crate::elf) fn target(instruction: &Instruction) -> Option<VirtAddr> {
    (instruction.op0_kind() == OpKind::NearBranch64).then(|| VirtAddr(instruction.near_branch64()))
}

pub(in crate::elf) fn inside(code: &[u8], address: VirtAddr, target: VirtAddr) -> bool {
    target.0.wrapping_sub(address.0) < code.len() as u64
}

/// Whether the instruction writes, or may write, one of the registers or a part of it.
pub(in crate::elf) fn writes(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    registers: &[Register],
) -> bool {
    factory.info(instruction).used_registers().iter().any(|used| {
        let written = !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
        written && registers.contains(&used.register().full_register())
    })
}

/// Whether the instruction writes, or may write, memory.
pub(in crate::elf) fn stores(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    let is_write = |access| {
        !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
    };
    factory.info(instruction).used_memory().iter().any(|memory| is_write(memory.access()))
}

/// The legacy prefixes of an instruction, including those without effect: the kernel's checks count them too.
fn prefixes(bytes: &[u8]) -> &[u8] {
    let is_prefix = |byte: &u8| {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
    };
    let length = bytes.iter().take_while(|byte| is_prefix(byte)).count();
    bytes.get(..length).unwrap_or_default()
}

pub(in crate::elf) fn has_bad_prefix(bytes: &[u8]) -> bool {
    prefixes(bytes).iter().any(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
}

/// Whether the kernel emulates the instruction instead of single-stepping it (`push_setup_xol_ops` and
/// `branch_setup_xol_ops` in arch/x86/kernel/uprobes.c).
pub(in crate::elf) fn is_emulated(bytes: &[u8], instruction: &Instruction) -> bool {
    let wide = prefixes(bytes).contains(&0x66);
    match bytes {
        // A push of a register with no prefix other than REX.B, or a nop.
        [0x50..=0x57 | 0x90] | [0x41, 0x50..=0x57] | [0x66, 0x90] => true,
        _ => match instruction.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                !wide && target(instruction).is_some() && !is_loop(bytes)
            }
            // The multi-byte nops that compilers use as padding.
            _ => matches!(instruction.code(), Code::Nop_rm32 | Code::Nop_rm16),
        },
    }
}

/// `loop`, `loope`, `loopne` and `jrcxz`: conditional branches that the kernel does not emulate.
fn is_loop(bytes: &[u8]) -> bool {
    bytes.get(prefixes(bytes).len()).is_some_and(|opcode| matches!(opcode, 0xe0..=0xe3))
}

#[cfg(test)]
mod tests {
    use super::{
        CallSite, InstructionSite, UnprobeableCode, VirtAddr, calls, forwarder, plt_slot, probe_site,
    };

    const AT: VirtAddr = VirtAddr(0x1000);

    /// Encodes `call` (0xe8) or `jmp` (0xe9) as the instruction at `offset` of a function at 0x1000.
    fn near(opcode: u8, offset: u64, target: u64) -> Vec<u8> {
        let relative = target.wrapping_sub(AT.0 + offset + 5).to_le_bytes();
        [&[opcode], &relative[..4]].concat()
    }

    #[test]
    fn probe_sites() {
        let site = |offset, emulated| Ok(InstructionSite { offset, emulated });
        let cases: &[(&str, &[u8], Result<InstructionSite, UnprobeableCode>)] = &[
            ("push %rbp", &[0x55, 0x48, 0x89, 0xe5], site(0, true)),
            ("push %r13", &[0x41, 0x55, 0x55], site(0, true)),
            ("endbr64; push %rbp", &[0xf3, 0x0f, 0x1e, 0xfa, 0x55], site(4, true)),
            ("endbr64; push %r15", &[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57], site(4, true)),
            ("endbr64; sub", &[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x18], site(0, false)),
            ("endbr64 and the end", &[0xf3, 0x0f, 0x1e, 0xfa], site(0, false)),
            ("endbr64; cs nopw", &[0xf3, 0x0f, 0x1e, 0xfa, 0x2e, 0x0f, 0x1f, 0x00], site(0, false)),
            ("sub $0x18,%rsp", &[0x48, 0x83, 0xec, 0x18], site(0, false)),
            ("nopl", &[0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55], site(0, true)),
            ("jmp rel8", &[0xeb, 0x02], site(0, true)),
            ("data16 jmp", &[0x66, 0xe9, 0, 0, 0, 0], site(0, false)),
            ("jrcxz", &[0xe3, 0x02], site(0, false)),
            ("cs nopw; push", &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x55], site(10, true)),
            ("ds mov %rax,%rbx; sub", &[0x3e, 0x48, 0x89, 0xc3, 0x48, 0x83, 0xec, 8], site(4, false)),
            ("cs push %rbp", &[0x2e, 0x55], Err(UnprobeableCode::Prefix(0))),
            ("ds xor %ecx,%ecx", &[0x3e, 0x31, 0xc9, 0x55], Err(UnprobeableCode::Prefix(0))),
            ("notrack jmp *%rax", &[0x3e, 0xff, 0xe0], Err(UnprobeableCode::Prefix(0))),
            ("lock incl (%rdi)", &[0xf0, 0xff, 0x07, 0x55], site(3, true)),
            ("not an instruction", &[0x06, 0x55], Err(UnprobeableCode::Invalid(0))),
            ("cut in the middle", &[0x48], Err(UnprobeableCode::Invalid(0))),
            ("nothing", &[], Err(UnprobeableCode::Invalid(0))),
        ];
        for (name, code, expected) in cases {
            assert_eq!(probe_site(code, AT), *expected, "{name}");
        }
    }

    #[test]
    fn a_forwarder_is_followed_to_its_target() {
        let call = |prologue: &[u8]| [prologue, &near(0xe8, prologue.len() as u64, 0x5000)].concat();
        let cases: &[(&str, Vec<u8>, Option<u64>)] = &[
            ("sub; call", call(&[0x48, 0x83, 0xec, 0x08]), Some(0x5000)),
            ("endbr64; push; call", call(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55]), Some(0x5000)),
            ("mov %fs:0x28,%rax; call", call(&[0x64, 0x48, 0x8b, 4, 0x25, 0x28, 0, 0, 0]), Some(0x5000)),
            ("jmp", near(0xe9, 0, 0x5000), Some(0x5000)),
            ("xor %ecx,%ecx; call", call(&[0x31, 0xc9]), None),
            ("mov %cl,%r8b; call", call(&[0x41, 0x88, 0xc8]), None),
            ("movslq %edx,%rdx; call", call(&[0x48, 0x63, 0xd2]), None),
            ("test; js; call", call(&[0x85, 0xd2, 0x78, 0x05]), None),
            ("call *%rax", vec![0xff, 0xd0], None),
            ("call of itself", near(0xe8, 0, 0x1000), None),
            ("ret", vec![0xc3], None),
            ("jmp inside", vec![0xeb, 0x01, 0x90, 0xc3], None),
        ];
        for (name, code, expected) in cases {
            assert_eq!(forwarder(code, AT), expected.map(VirtAddr), "{name}");
        }
    }

    #[test]
    fn calls_are_listed_with_their_return_addresses() {
        let mut code = near(0xe8, 0, 0x5000);
        code.extend([0xff, 0xd0]); // call *%rax
        code.extend([0x74, 0x02]); // je inside
        code.extend([0x90, 0x90]);
        code.extend(near(0xe9, 11, 0x6000));
        let found = calls(&code, AT);
        let call =
            |at, target, tail| CallSite { return_address: VirtAddr(at), target: VirtAddr(target), tail };
        assert_eq!(found.direct, [call(0x1005, 0x5000, false), call(0x1010, 0x6000, true)]);
        assert_eq!((found.indirect, found.complete), (1, true));
        assert!(!calls(&[0x06], AT).complete);
    }

    #[test]
    fn stubs_of_the_plt_name_their_slot() {
        assert_eq!(plt_slot(&[0xff, 0x25, 0x10, 0, 0, 0], AT), Some(VirtAddr(0x1016)));
        let bnd = [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0x10, 0, 0, 0];
        assert_eq!(plt_slot(&bnd, AT), Some(VirtAddr(0x101b)));
        assert_eq!(plt_slot(&[0xff, 0xe0], AT), None);
        assert_eq!(plt_slot(&[0x55], AT), None);
    }
}
