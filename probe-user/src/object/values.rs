//! What registers and the stack hold at a place of the code, as far as it comes from the arguments.
//!
//! Owns what one instruction makes of it, and what is left where two ways meet. Which way code takes is `flow`'s.

use std::collections::BTreeMap;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemorySize, OpAccess, OpKind, Register,
};

use super::code::ARGUMENTS;

/// Values on the stack that are followed.
const MAX_SLOTS: usize = 64;
/// General registers.
const REGISTERS: usize = 16;

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An argument, by number from 0 on, and so much more.
    Argument(u8, i64),
    /// The word that is so far behind an argument.
    Loaded(u8, i64),
    /// The word so far in the table that [`Value::Loaded`] is the address of.
    Entry(u8, i64, u64),
    /// The word at an address of the object: a slot of the global offset table, say.
    Slot(u64),
    /// This number.
    Number(u64),
}

/// What is known at a place of the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    registers: [Option<Value>; REGISTERS],
    /// By register and distance.
    stack: BTreeMap<(Register, i64), Value>,
}

impl State {
    pub(super) fn entry() -> Self {
        let mut state = Self::default();
        let arguments = (0..).zip(ARGUMENTS);
        arguments.for_each(|(number, register)| state.set(register, Some(Value::Argument(number, 0))));
        state
    }

    pub(super) fn get(&self, register: Register) -> Option<Value> {
        let whole = register.is_gpr64().then(|| register.number())?;
        self.registers.get(whole).copied().flatten()
    }

    /// The number in a register, of whatever size.
    pub(super) fn number(&self, register: Register) -> Option<u64> {
        match self.get(register.full_register()) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    fn set(&mut self, register: Register, value: Option<Value>) {
        let register = register.full_register();
        if let Some(place) = self.registers.get_mut(register.number()).filter(|_| register.is_gpr64()) {
            *place = value;
        }
    }

    /// Only what both know.
    pub(super) fn join(&mut self, other: &Self) {
        for (own, others) in self.registers.iter_mut().zip(&other.registers) {
            if own != others {
                *own = None;
            }
        }
        self.stack.retain(|place, value| other.stack.get(place) == Some(value));
    }

    /// The place on the stack that an operand is.
    pub(super) fn place(
        &self,
        base: Register,
        index: Register,
        displacement: u64,
    ) -> Option<(Register, i64)> {
        let is_stack = base == Register::RSP || base == Register::RBP && self.get(Register::RBP).is_none();
        (is_stack && index == Register::None).then_some((base, displacement.cast_signed()))
    }

    fn keep(&mut self, place: (Register, i64), value: Option<Value>) {
        match value {
            Some(value) if self.stack.len() < MAX_SLOTS => {
                self.stack.insert(place, value);
            }
            _ => drop(self.stack.remove(&place)),
        }
    }
}

/// What is known after an instruction.
pub(super) fn change(factory: &mut InstructionInfoFactory, instruction: &Instruction, state: &mut State) {
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        // What a callee may change (System V AMD64 ABI, section 3.2.1).
        let lost = [Register::RAX, Register::RCX, Register::RDX, Register::RSI, Register::RDI];
        let more = [Register::R8, Register::R9, Register::R10, Register::R11];
        lost.into_iter().chain(more).for_each(|register| state.set(register, None));
        return;
    }
    let made = made(instruction, state);
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
        }
    }
    if instruction.op0_kind() == OpKind::Register {
        state.set(instruction.op0_register(), made);
    }
}

/// The value that an instruction makes in its first operand, if it is known.
fn made(instruction: &Instruction, state: &State) -> Option<Value> {
    let more = |value, offset: u64| match value {
        Some(Value::Argument(argument, known)) => {
            Some(Value::Argument(argument, known.wrapping_add(offset.cast_signed())))
        }
        _ => None,
    };
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    match instruction.code() {
        Code::Mov_r64_rm64 if instruction.op1_kind() == OpKind::Memory => {
            if instruction.is_ip_rel_memory_operand() {
                return Some(Value::Slot(instruction.ip_rel_memory_address()));
            }
            let displacement = instruction.memory_displacement64();
            if let Some(place) = state.place(base, index, displacement) {
                return state.stack.get(&place).copied();
            }
            match state.get(base).filter(|_| index == Register::None) {
                Some(Value::Argument(argument, offset)) => {
                    Some(Value::Loaded(argument, offset.wrapping_add(displacement.cast_signed())))
                }
                Some(Value::Loaded(argument, offset)) => Some(Value::Entry(argument, offset, displacement)),
                _ => None,
            }
        }
        Code::Mov_r32_imm32 | Code::Mov_r64_imm64 => Some(Value::Number(instruction.immediate(1))),
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => state.get(instruction.op1_register()),
        Code::Lea_r64_m if index == Register::None => {
            more(state.get(base), instruction.memory_displacement64())
        }
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32
            if instruction.op0_kind() == OpKind::Register =>
        {
            more(state.get(instruction.op0_register()), instruction.immediate(1))
        }
        _ => None,
    }
}
