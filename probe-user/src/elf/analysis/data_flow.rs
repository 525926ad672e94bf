//! What a function does with its arguments: what it reads and writes through them, and which callees it
//! passes them to.
//!
//! The code is walked from the entry on, repeatedly, until the states at jump targets no longer change. What
//! follows a call that never returns is not treated as its continuation, because newer compilers put no
//! padding in between. Code that is reachable only through a jump table or by unwinding is not covered. The
//! result is evidence to combine with other evidence, not a proof by itself.

use std::collections::BTreeMap;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register, UsedMemory,
};

use super::abstract_state::{AbstractState, AbstractValue, Assumption, change};
use crate::elf::code::decode::{inside, instructions, target};
use crate::elf::{FunctionBounds, FunctionTable, ObjectError, VirtAddr};

/// Limit of the code of one function that is analysed, in bytes.
const MAX_BODY: u64 = 64 * 1024;
/// Most words that one instruction reads.
const MAX_WORDS: usize = 8;
/// Limit of the passes over the code of one function: nested loops need several.
const MAX_ROUNDS: usize = 6;

/// The callee of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// The function at this address.
    Function(VirtAddr),
    /// The function whose address is in this word.
    Slot(u64),
    /// The method at an offset in the table that the word at an offset from an argument points to.
    Method(u8, i64, u64),
    /// The callee cannot be determined.
    Unknown,
}

/// An effect of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Reads memory at an offset from an argument.
    Reads(u8, i64),
    /// Writes the constant `number` of `bytes` bytes at an offset from an argument.
    Writes {
        /// The number of the argument.
        argument: u8,
        /// The offset from it.
        offset: i64,
        /// The value.
        number: u64,
        /// The size of the value in bytes.
        bytes: usize,
    },
    /// Reads at an offset (the second one) from where the word at an offset from an argument points.
    ReadsBehind(u8, i64, i64),
    /// Writes there.
    ChangesBehind(u8, i64, i64),
    /// Writes a constant to its stack, at an offset from the stack pointer.
    Keeps {
        /// The offset from the stack pointer.
        offset: i64,
        /// The value.
        number: u64,
        /// The size of the value in bytes.
        bytes: usize,
    },
    /// Calls a function, or jumps to another one.
    Calls(CallArguments),
}

/// A call, or a jump out of the function, with its first three arguments as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallArguments {
    /// The callee.
    pub callee: Callee,
    /// The first argument.
    pub first: Option<AbstractValue>,
    /// The second argument.
    pub second: Option<AbstractValue>,
    /// The third argument.
    pub third: Option<AbstractValue>,
}

/// A function with its effects.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The address of its entry.
    pub address: VirtAddr,
    /// The size of its code in bytes.
    pub size: u64,
    /// The effects, in code order.
    pub effects: Vec<Effect>,
}

impl Flow {
    /// Whether the function reads at this offset from an argument.
    pub fn reads(&self, argument: u8, offset: i64) -> bool {
        self.read_of(argument).any(|read| read == offset)
    }

    /// The offsets from an argument at which the function reads.
    pub fn read_of(&self, argument: u8) -> impl Iterator<Item = i64> {
        self.effects.iter().filter_map(move |effect| match effect {
            Effect::Reads(number, offset) if *number == argument => Some(*offset),
            _ => None,
        })
    }

    /// The calls of the function.
    pub fn calls(&self) -> impl Iterator<Item = CallArguments> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Calls(call) => Some(*call),
            _ => None,
        })
    }
}

impl FunctionTable<'_> {
    /// Analyses a function, up to 64 KiB of its code.
    pub fn flow(&self, function: FunctionBounds) -> Result<Flow, ObjectError> {
        self.read(function, None)
    }

    /// Analyses a function under an assumption: paths that are not taken then are left out.
    pub fn flow_given(&self, function: FunctionBounds, given: Assumption) -> Result<Flow, ObjectError> {
        self.read(function, Some(given))
    }

    fn read(&self, function: FunctionBounds, given: Option<Assumption>) -> Result<Flow, ObjectError> {
        let FunctionBounds { address, size } = function;
        let code = self.object().code(address, size.min(MAX_BODY))?;
        let mut last = Vec::new();
        for instruction in instructions(&code, address) {
            if instruction.is_invalid() {
                break;
            }
            if let Some(callee) =
                target(&instruction).filter(|_| instruction.flow_control() == FlowControl::Call)
                && self.never_returns(callee)?
            {
                last.push(instruction.ip());
            }
        }
        Ok(Flow { address, size, effects: read(&code, address, &last, given) })
    }
}

/// Collects the effects of a function. `last` has the addresses of the calls that never return, sorted.
fn read(code: &[u8], address: VirtAddr, last: &[u64], given: Option<Assumption>) -> Vec<Effect> {
    // The states at jump targets.
    let mut targets: BTreeMap<u64, AbstractState> = BTreeMap::new();
    let mut effects = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let before = targets.clone();
        effects.clear();
        round(code, address, last, AbstractState::entry(given), &mut targets, &mut effects);
        if before == targets {
            break;
        }
    }
    effects
}

fn round(
    code: &[u8],
    address: VirtAddr,
    last: &[u64],
    entry: AbstractState,
    targets: &mut BTreeMap<u64, AbstractState>,
    effects: &mut Vec<Effect>,
) {
    let mut factory = InstructionInfoFactory::new();
    // None where the code is not reachable.
    let mut current = Some(entry);
    for instruction in instructions(code, address) {
        if instruction.is_invalid() {
            break;
        }
        match (&mut current, targets.get(&instruction.ip())) {
            (Some(state), Some(other)) => state.join(other),
            (None, Some(other)) => current = Some(other.clone()),
            (_, None) => {}
        }
        let Some(state) = &mut current else { continue };
        accesses(&mut factory, &instruction, state, effects);
        let flow = instruction.flow_control();
        let leads_to = target(&instruction).filter(|to| inside(code, address, *to));
        let branches = matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch);
        let decided = if flow == FlowControl::ConditionalBranch { state.decides(&instruction) } else { None };
        let is_branch = branches && decided != Some(false);
        if flow == FlowControl::Call || flow == FlowControl::IndirectCall || is_branch && leads_to.is_none() {
            effects.push(call(&instruction, state));
        }
        if let Some(to) = leads_to.filter(|_| is_branch) {
            targets.entry(to.0).and_modify(|target| target.join(state)).or_insert_with(|| state.clone());
        }
        change(&mut factory, &instruction, state);
        if !branches && !matches!(flow, FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall)
            || flow == FlowControl::UnconditionalBranch
            || decided == Some(true)
            || last.binary_search(&instruction.ip()).is_ok()
        {
            current = None;
        }
    }
}

/// Adds what an instruction reads and writes.
fn accesses(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    state: &AbstractState,
    effects: &mut Vec<Effect>,
) {
    for memory in factory.info(instruction).used_memory() {
        let is_read = matches!(memory.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite);
        match behind(memory, state) {
            // A vector operand covers several words.
            Some((argument, offset)) if is_read => {
                let words = memory.memory_size().size().div_ceil(8).clamp(1, MAX_WORDS);
                let offsets = (0..).map(|word: i64| offset.wrapping_add(8 * word)).take(words);
                effects.extend(offsets.map(|offset| Effect::Reads(argument, offset)));
            }
            Some((argument, offset)) => {
                if let Some((number, bytes)) = stored(instruction, state) {
                    effects.push(Effect::Writes { argument, offset, number, bytes });
                }
            }
            None => {
                if let Some(AbstractValue::Loaded(argument, offset)) = state.get(memory.base())
                    && memory.index() == Register::None
                {
                    let place = memory.displacement().cast_signed();
                    if is_read {
                        effects.push(Effect::ReadsBehind(argument, offset, place));
                    }
                    if matches!(memory.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite)
                    {
                        // A vector operand covers several words.
                        let words = memory.memory_size().size().div_ceil(8).clamp(1, MAX_WORDS);
                        let places = (0..).map(|word: i64| place.wrapping_add(8 * word)).take(words);
                        effects.extend(places.map(|place| Effect::ChangesBehind(argument, offset, place)));
                    }
                }
                let place = state.place(memory.base(), memory.index(), memory.displacement());
                if let (Some((_, offset)), Some((number, bytes))) = (place, stored(instruction, state)) {
                    effects.push(Effect::Keeps { offset, number, bytes });
                }
            }
        }
    }
}

/// The argument and the offset from it that a memory access refers to.
fn behind(memory: &UsedMemory, state: &AbstractState) -> Option<(u8, i64)> {
    match state.get(memory.base()) {
        Some(AbstractValue::Argument(argument, offset)) if memory.index() == Register::None => {
            Some((argument, offset.wrapping_add(memory.displacement().cast_signed())))
        }
        _ => None,
    }
}

/// The constant that a `mov` writes to memory, and its size.
fn stored(instruction: &Instruction, state: &AbstractState) -> Option<(u64, usize)> {
    let number = || state.number(instruction.op1_register());
    let (number, bytes) = match instruction.code() {
        _ if instruction.op0_kind() != OpKind::Memory => return None,
        Code::Mov_rm8_imm8 => (instruction.immediate(1), 1),
        Code::Mov_rm16_imm16 => (instruction.immediate(1), 2),
        Code::Mov_rm32_imm32 => (instruction.immediate(1), 4),
        Code::Mov_rm64_imm32 => (instruction.immediate(1), 8),
        Code::Mov_rm8_r8 => (number()? & 0xff, 1),
        Code::Mov_rm16_r16 => (number()? & 0xffff, 2),
        Code::Mov_rm32_r32 => (number()?, 4),
        _ => return None,
    };
    Some((number, bytes))
}

fn call(instruction: &Instruction, state: &AbstractState) -> Effect {
    let callee = match target(instruction) {
        Some(target) => Callee::Function(target),
        None if instruction.is_ip_rel_memory_operand() => Callee::Slot(instruction.ip_rel_memory_address()),
        None if instruction.op0_kind() == OpKind::Memory => {
            let table = state.get(instruction.memory_base());
            match table.filter(|_| instruction.memory_index() == Register::None) {
                Some(AbstractValue::Loaded(argument, offset)) => {
                    Callee::Method(argument, offset, instruction.memory_displacement64())
                }
                _ => Callee::Unknown,
            }
        }
        None => match state.get(instruction.op0_register()) {
            Some(AbstractValue::Slot(slot)) => Callee::Slot(slot),
            Some(AbstractValue::Entry(argument, offset, method)) => Callee::Method(argument, offset, method),
            _ => Callee::Unknown,
        },
    };
    let [first, second, third] =
        [Register::RDI, Register::RSI, Register::RDX].map(|register| state.get(register));
    Effect::Calls(CallArguments { callee, first, second, third })
}

#[cfg(test)]
mod tests;
