//! What a function refers to: the addresses that it takes and the numbers that it loads, in code order.
//!
//! What a number means is for the caller to decide.

use std::collections::BTreeSet;

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

use crate::elf::code::decode::{CallTargets, calls, instructions, target, writes};
use crate::elf::{Object, ObjectError, VirtAddr};

/// Limit of the code of one function that is decoded, in bytes.
const MAX_BODY: u64 = 64 * 1024;

/// A function with what it refers to.
#[derive(Clone, Debug)]
pub struct Uses {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes, including the padding after it.
    pub size: u64,
    /// Its calls, and the jumps out of it.
    pub calls: CallTargets,
    /// The operands of interest, each with the index of its instruction in the function.
    operands: Vec<(u32, u64)>,
}

impl Uses {
    /// Whether any operand satisfies the predicate.
    pub fn any(&self, is_wanted: impl Fn(u64) -> bool) -> bool {
        self.operands.iter().any(|(_, operand)| is_wanted(*operand))
    }

    /// For each operand that satisfies the predicate: all operands within `around` instructions of it.
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
    /// What a function refers to; reads up to 64 KiB of its code.
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

    /// Whether a function writes the register of the fifth argument before it first calls `callee`. If it has
    /// fewer parameters itself, that means that it passes at least five.
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

    /// Whether a function reads the register of its third argument before it writes it, on one of its paths:
    /// compilers move what reports an error before the code that uses the argument. The calls alone do not
    /// show this: a compiler that knows all callers may have removed an argument.
    pub fn takes_three_arguments(&self, function: &Uses) -> Result<bool, ObjectError> {
        self.takes(function, Register::RDX)
    }

    /// The same for the fourth argument.
    pub fn takes_four_arguments(&self, function: &Uses) -> Result<bool, ObjectError> {
        self.takes(function, Register::RCX)
    }

    /// The same for the fifth argument.
    pub fn takes_five_arguments(&self, function: &Uses) -> Result<bool, ObjectError> {
        self.takes(function, Register::R8)
    }

    fn takes(&self, function: &Uses, argument: Register) -> Result<bool, ObjectError> {
        let code = self.code(function.address, function.size.min(MAX_BODY))?;
        let mut factory = InstructionInfoFactory::new();
        let mut visited = BTreeSet::new();
        let mut begins = vec![function.address];
        while let Some(begin) = begins.pop() {
            let inside = usize::try_from(begin.0.wrapping_sub(function.address.0)).unwrap_or(usize::MAX);
            for instruction in instructions(code.get(inside..).unwrap_or_default(), begin) {
                if instruction.is_invalid() || !visited.insert(instruction.ip()) {
                    break;
                }
                let used = factory.info(&instruction).used_registers().iter();
                let mut used = used.filter(|used| used.register().full_register() == argument);
                match used.next().map(iced_x86::UsedRegister::access) {
                    Some(access) if is_read(access) => return Ok(true),
                    Some(_) => break,
                    None => {}
                }
                let flow = instruction.flow_control();
                if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                    begins.extend(target(&instruction));
                }
                // A callee may or may not use the register, and its value is lost after the call.
                if !matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch) {
                    break;
                }
            }
        }
        Ok(false)
    }
}

fn is_read(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
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
