//! The values of registers and stack slots at a point in the code, as far as they derive from the arguments.
//!
//! Models the effect of one instruction, and the join of two states where paths meet. `data_flow` decides
//! which paths the code takes.

use std::collections::BTreeMap;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemorySize, OpAccess, OpKind, Register,
};

use super::arithmetic::{Flags, compute};
use crate::elf::code::decode::ARGUMENTS;

/// Limit of the tracked stack slots.
const MAX_SLOTS: usize = 64;
/// Most bytes that one instruction writes.
const MAX_WRITE: u64 = 64;
/// Number of general registers.
const REGISTERS: usize = 16;

/// What the analysis knows about a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbstractValue {
    /// Argument number n (from 0) plus an offset.
    Argument(u8, i64),
    /// The word at an offset from an argument.
    Loaded(u8, i64),
    /// An offset, never 0, from the word at an offset from an argument.
    Inside(u8, i64, i64),
    /// The word at an offset in the table that [`AbstractValue::Loaded`] points to.
    Entry(u8, i64, u64),
    /// The word at an address of the object, such as a slot of the global offset table.
    Slot(u64),
    /// A constant.
    Number(u64),
    /// The address at an offset from the frame pointer of this function.
    Stack(i64),
}

/// A word that the analysis assumes, to find out what the code does in that case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumption {
    /// The argument that points to the word.
    pub argument: u8,
    /// The offset from the argument.
    pub offset: i64,
    /// The assumed value.
    pub word: u64,
}

/// What the analysis knows at a point in the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::elf) struct AbstractState {
    registers: [Option<AbstractValue>; REGISTERS],
    /// Stack slots, by base register and displacement.
    stack: BTreeMap<(Register, i64), AbstractValue>,
    /// The assumption; it ends when the word may be overwritten.
    given: Option<Assumption>,
    /// Processor flags, known only if they result from the assumption.
    flags: Option<Flags>,
}

impl AbstractState {
    pub(in crate::elf) fn entry(given: Option<Assumption>) -> Self {
        let mut state = Self { given, ..Self::default() };
        let arguments = (0..).zip(ARGUMENTS);
        arguments
            .for_each(|(number, register)| state.set(register, Some(AbstractValue::Argument(number, 0))));
        state
    }

    pub(in crate::elf) fn get(&self, register: Register) -> Option<AbstractValue> {
        let whole = register.is_gpr64().then(|| register.number())?;
        self.registers.get(whole).copied().flatten()
    }

    /// The constant in a register of any size, if it is one.
    pub(in crate::elf) fn number(&self, register: Register) -> Option<u64> {
        match self.get(register.full_register()) {
            Some(AbstractValue::Number(number)) => Some(number),
            _ => None,
        }
    }

    fn set(&mut self, register: Register, value: Option<AbstractValue>) {
        let register = register.full_register();
        if let Some(place) = self.registers.get_mut(register.number()).filter(|_| register.is_gpr64()) {
            *place = value;
        }
    }

    /// Keeps only what both states agree on.
    pub(in crate::elf) fn join(&mut self, other: &Self) {
        for (own, others) in self.registers.iter_mut().zip(&other.registers) {
            if own != others {
                *own = None;
            }
        }
        self.given = self.given.filter(|_| self.given == other.given);
        self.flags = self.flags.filter(|_| self.flags == other.flags);
        self.stack.retain(|place, value| other.stack.get(place) == Some(value));
    }

    /// The stack slot that a memory operand refers to, if it is on the stack.
    pub(in crate::elf) fn place(
        &self,
        base: Register,
        index: Register,
        displacement: u64,
    ) -> Option<(Register, i64)> {
        if index != Register::None {
            return None;
        }
        if let Some(AbstractValue::Stack(offset)) = self.get(base) {
            return Some((Register::RBP, offset.wrapping_add(displacement.cast_signed())));
        }
        let is_stack = base == Register::RSP || base == Register::RBP && self.get(Register::RBP).is_none();
        is_stack.then_some((base, displacement.cast_signed()))
    }

    fn keep(&mut self, place: (Register, i64), value: Option<AbstractValue>) {
        match value {
            Some(value) if self.stack.len() < MAX_SLOTS => {
                self.stack.insert(place, value);
            }
            _ => drop(self.stack.remove(&place)),
        }
    }
}

impl AbstractState {
    /// Whether a conditional branch is taken, if the flags decide it.
    pub(in crate::elf) fn decides(&self, branch: &Instruction) -> Option<bool> {
        self.flags.and_then(|flags| flags.hold(branch.condition_code()))
    }

    /// The constant value of an operand, if it is known.
    fn operand(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                let number = self.number(register)?;
                let is_high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
                (!is_high).then(|| head(number, register.size()))
            }
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                self.word(instruction).filter(|_| size <= 8).map(|word| head(word, size))
            }
            _ => instruction.try_immediate(operand).ok(),
        }
    }

    /// The constant word at the address of the memory operand, if it is known.
    fn word(&self, instruction: &Instruction) -> Option<u64> {
        let (base, displacement) = (instruction.memory_base(), instruction.memory_displacement64());
        if instruction.memory_index() != Register::None {
            return None;
        }
        if let Some(place) = self.place(base, Register::None, displacement) {
            return match self.stack.get(&place) {
                Some(AbstractValue::Number(number)) => Some(*number),
                _ => None,
            };
        }
        let AbstractValue::Argument(argument, offset) = self.get(base)? else { return None };
        let place = (argument, offset.wrapping_add(displacement.cast_signed()));
        self.given.filter(|given| (given.argument, given.offset) == place).map(|given| given.word)
    }

    /// Memory is written: drops the assumption if it may be about that memory.
    fn overwrite(&mut self, base: Register, index: Register, displacement: u64) {
        if let (Some(given), Some(AbstractValue::Argument(argument, offset))) = (self.given, self.get(base)) {
            let distance = given.offset.wrapping_sub(offset.wrapping_add(displacement.cast_signed()));
            let is_apart = index == Register::None && distance.unsigned_abs() >= MAX_WRITE;
            self.given = self.given.filter(|_| argument != given.argument || is_apart);
        }
    }
}

/// The lowest `bytes` bytes of a word.
fn head(word: u64, bytes: usize) -> u64 {
    let bits = u32::try_from(bytes.saturating_mul(8)).unwrap_or(u32::MAX);
    1_u64.checked_shl(bits).map_or(word, |bit| word & bit.wrapping_sub(1))
}

/// Updates the state for an instruction.
pub(in crate::elf) fn change(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    state: &mut AbstractState,
) {
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        // The registers that a callee may change (System V AMD64 ABI, section 3.2.1).
        let lost = [Register::RAX, Register::RCX, Register::RDX, Register::RSI, Register::RDI];
        let more = [Register::R8, Register::R9, Register::R10, Register::R11];
        lost.into_iter().chain(more).for_each(|register| state.set(register, None));
        state.flags = None;
        return;
    }
    let (number, flags) = match state.given {
        Some(_) => {
            let operands = [0, 1].map(|operand| state.operand(instruction, operand));
            compute(instruction, operands, state.flags)
        }
        None => (None, None),
    };
    let made = number.map(AbstractValue::Number).or_else(|| made(instruction, state));
    state.flags = flags;
    let used = factory.info(instruction);
    for register in used.used_registers() {
        if !matches!(register.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead) {
            state.set(register.register(), None);
        }
    }
    for memory in used.used_memory() {
        let is_written = !matches!(memory.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
        if let Some(place) =
            state.place(memory.base(), memory.index(), memory.displacement()).filter(|_| is_written)
        {
            let whole = memory.memory_size() == MemorySize::UInt64;
            state.keep(place, made.filter(|_| whole));
        } else if is_written {
            state.overwrite(memory.base(), memory.index(), memory.displacement());
        }
    }
    // Instructions that only read the register produce no value.
    if instruction.op0_kind() == OpKind::Register && made.is_some() {
        state.set(instruction.op0_register(), made);
    }
}

/// The value that an instruction writes to its first operand, if it can be derived.
fn made(instruction: &Instruction, state: &AbstractState) -> Option<AbstractValue> {
    let more = |value, offset: u64| match value {
        Some(AbstractValue::Argument(argument, distance)) => {
            Some(AbstractValue::Argument(argument, distance.wrapping_add(offset.cast_signed())))
        }
        Some(AbstractValue::Number(number)) => Some(AbstractValue::Number(number.wrapping_add(offset))),
        Some(AbstractValue::Loaded(argument, loaded)) => Some(inside(argument, loaded, offset.cast_signed())),
        Some(AbstractValue::Inside(argument, loaded, distance)) => {
            Some(inside(argument, loaded, distance.wrapping_add(offset.cast_signed())))
        }
        _ => None,
    };
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    match instruction.code() {
        Code::Mov_r64_rm64 if instruction.op1_kind() == OpKind::Memory => {
            if instruction.is_ip_rel_memory_operand() {
                return Some(AbstractValue::Slot(instruction.ip_rel_memory_address()));
            }
            let displacement = instruction.memory_displacement64();
            if let Some(place) = state.place(base, index, displacement) {
                return state.stack.get(&place).copied();
            }
            match state.get(base).filter(|_| index == Register::None) {
                Some(AbstractValue::Argument(argument, offset)) => {
                    Some(AbstractValue::Loaded(argument, offset.wrapping_add(displacement.cast_signed())))
                }
                Some(AbstractValue::Loaded(argument, offset)) => {
                    Some(AbstractValue::Entry(argument, offset, displacement))
                }
                Some(AbstractValue::Inside(argument, offset, more)) => Some(AbstractValue::Entry(
                    argument,
                    offset,
                    displacement.wrapping_add(more.cast_unsigned()),
                )),
                _ => None,
            }
        }
        Code::Mov_r32_imm32 | Code::Mov_r64_imm64 => Some(AbstractValue::Number(instruction.immediate(1))),
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => state.get(instruction.op1_register()),
        Code::Lea_r64_m if index == Register::None => {
            let displacement = instruction.memory_displacement64();
            // The stack pointer moves with each push, so only what is relative to the frame is kept.
            let place = state.place(base, index, displacement).filter(|(base, _)| *base == Register::RBP);
            let on_stack = place.map(|(_, offset)| AbstractValue::Stack(offset));
            on_stack.or_else(|| more(state.get(base), displacement))
        }
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32
            if instruction.op0_kind() == OpKind::Register =>
        {
            more(state.get(instruction.op0_register()), instruction.immediate(1))
        }
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 if instruction.op0_kind() == OpKind::Register => {
            more(state.get(instruction.op0_register()), instruction.immediate(1).wrapping_neg())
        }
        _ => None,
    }
}

fn inside(argument: u8, loaded: i64, more: i64) -> AbstractValue {
    if more == 0 {
        AbstractValue::Loaded(argument, loaded)
    } else {
        AbstractValue::Inside(argument, loaded, more)
    }
}
