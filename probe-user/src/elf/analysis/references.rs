//! What a function refers to: addresses that it takes and numbers that it loads, in the order of its code.
//!
//! Owns the decoding for that. It never says what a number is for.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

use crate::elf::code::decode::{Calls, calls, instructions, target, writes};
use crate::elf::{Object, ObjectError, VirtAddr};

/// Code of one function that is looked into.
const MAX_BODY: u64 = 64 * 1024;

/// A function, and what it refers to.
#[derive(Clone, Debug)]
pub struct Uses {
    /// Its entry.
    pub address: VirtAddr,
    /// Bytes of its code, with the padding after it.
    pub size: u64,
    /// Its calls, and jumps out of it.
    pub calls: Calls,
    /// What instructions have in them, with the instruction's number in the function.
    operands: Vec<(u32, u64)>,
}

impl Uses {
    /// Whether an operand is such.
    pub fn any(&self, is_wanted: impl Fn(u64) -> bool) -> bool {
        self.operands.iter().any(|(_, operand)| is_wanted(*operand))
    }

    /// For each operand that is such, all operands of the `around` instructions before it and after it.
    pub fn near(&self, around: u32, is_wanted: impl Fn(u64) -> bool) -> Vec<Vec<u64>> {
        let wanted = self.operands.iter().filter(|(_, operand)| is_wanted(*operand));
        let near = |at: u32| {
            let close = self.operands.iter().filter(move |(other, _)| other.abs_diff(at) <= around);
            close.map(|(_, operand)| *operand).collect()
        };
        wanted.map(|(at, _)| near(*at)).collect()
    }
}

impl Object {
    /// What the function between two addresses refers to; code beyond 64 KiB is not looked at.
    pub fn uses(&self, address: VirtAddr, size: u64) -> Result<Uses, ObjectError> {
        let code = self.code(address, size.min(MAX_BODY))?;
        let mut operands = Vec::new();
        for (number, instruction) in (0_u32..).zip(instructions(&code, address)) {
            if instruction.is_invalid() {
                break;
            }
            operands.extend(operand(&instruction).map(|operand| (number, operand)));
        }
        Ok(Uses { address, size, calls: calls(&code, address), operands })
    }

    /// Whether a function writes the register of its fifth argument before it first calls `callee`: whether
    /// it gives it five arguments or more, if it has fewer itself.
    pub fn gives_five_arguments(&self, from: &Uses, callee: VirtAddr) -> Result<bool, ObjectError> {
        let code = self.code(from.address, from.size.min(MAX_BODY))?;
        let mut factory = InstructionInfoFactory::new();
        let is_call = |instruction: &Instruction| {
            let jumps =
                matches!(instruction.flow_control(), FlowControl::Call | FlowControl::UnconditionalBranch);
            jumps && target(instruction) == Some(callee)
        };
        let mut before = instructions(&code, from.address).take_while(|instruction| !is_call(instruction));
        Ok(before.any(|instruction| writes(&mut factory, &instruction, &[Register::R8])))
    }

    /// Whether a function looks at the register of its third argument before it writes it: a compiler that
    /// knows all callers may have changed what is given to it.
    pub fn takes_three_arguments(&self, function: &Uses) -> Result<bool, ObjectError> {
        let code = self.code(function.address, function.size.min(MAX_BODY))?;
        let mut factory = InstructionInfoFactory::new();
        let mut first = None;
        for instruction in instructions(&code, function.address) {
            let used = factory.info(&instruction).used_registers().iter();
            let mut third = used.filter(|used| used.register().full_register() == Register::RDX);
            if let Some(access) = third.next().map(iced_x86::UsedRegister::access) {
                first = Some(access);
                break;
            }
            // What a callee does with it is unknown, and after it the register is lost.
            if instruction.is_invalid() || instruction.flow_control() == FlowControl::Call {
                break;
            }
        }
        Ok(matches!(
            first,
            Some(OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        ))
    }

    /// Whether a function writes to memory other than the stack.
    pub fn writes_memory(&self, function: &Uses) -> Result<bool, ObjectError> {
        let code = self.code(function.address, function.size.min(MAX_BODY))?;
        let mut factory = InstructionInfoFactory::new();
        let writes = |instruction: Instruction| {
            let used = factory.info(&instruction).used_memory();
            used.iter().any(|memory| {
                let written =
                    !matches!(memory.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
                written && !matches!(memory.base(), Register::RSP | Register::RBP)
            })
        };
        Ok(instructions(&code, function.address)
            .take_while(|instruction| !instruction.is_invalid())
            .any(writes))
    }
}

/// The address that an instruction takes, or the number that it loads.
fn operand(instruction: &Instruction) -> Option<u64> {
    match instruction.code() {
        Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
            Some(instruction.ip_rel_memory_address())
        }
        Code::Mov_r32_imm32 | Code::Mov_r64_imm64 | Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32 => {
            Some(instruction.immediate(1))
        }
        Code::Pushq_imm8 | Code::Pushq_imm32 => Some(instruction.immediate(0)),
        _ => None,
    }
}
