//! What a function does with its arguments: what it reads and writes through them, and whom it hands them on to.
//!
//! Owns the reading of the code from the entry on, which is repeated until jumps back, too, have carried what is known to where they
//! lead. What code does that only a table or unwinding leads to is not told. It is one fact among several, never a proof of its own.

use std::collections::BTreeMap;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemorySize, OpAccess, OpKind, Register,
    UsedMemory,
};

use super::code::{ARGUMENTS, inside, instructions, target};
use super::{Object, ObjectError, VirtAddr};

/// Code of one function that is read.
const MAX_BODY: u64 = 64 * 1024;
/// Values on the stack that are followed.
const MAX_SLOTS: usize = 64;
/// Words that one instruction reads.
const MAX_WORDS: usize = 8;
/// How often the code of a function is read: loops in loops take some rounds.
const MAX_ROUNDS: usize = 6;
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

/// Whom a call leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// This function.
    Function(VirtAddr),
    /// The function whose address is there.
    Slot(u64),
    /// The function so far in the table whose address is so far behind an argument.
    Method(u8, i64, u64),
    /// It cannot be told.
    Unknown,
}

/// Something that a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Reads memory so far behind an argument.
    Reads(u8, i64),
    /// Writes a number of `bytes` bytes so far behind an argument.
    Writes {
        /// Which argument.
        argument: u8,
        /// How far behind it.
        offset: i64,
        /// What.
        number: u64,
        /// Its size.
        bytes: usize,
    },
    /// Writes memory behind the word that is so far behind an argument.
    Changes(u8, i64),
    /// Writes a number to its stack, so far above the stack pointer.
    Keeps {
        /// How far above.
        offset: i64,
        /// What.
        number: u64,
        /// Its size.
        bytes: usize,
    },
    /// Calls, or jumps out, with these as the first two arguments.
    Calls {
        /// Whom.
        callee: Callee,
        /// The first argument, as far as it is known.
        first: Option<Value>,
        /// The second one.
        second: Option<Value>,
    },
}

/// A function, and what it does with its arguments.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its entry.
    pub address: VirtAddr,
    /// Bytes of its code.
    pub size: u64,
    /// In the order of its code.
    pub effects: Vec<Effect>,
}

impl Flow {
    /// Whether it reads so far behind an argument.
    pub fn reads(&self, argument: u8, offset: i64) -> bool {
        self.read_of(argument).any(|known| known == offset)
    }

    /// How far behind an argument it reads, each.
    pub fn read_of(&self, argument: u8) -> impl Iterator<Item = i64> {
        self.effects.iter().filter_map(move |effect| match effect {
            Effect::Reads(number, offset) if *number == argument => Some(*offset),
            _ => None,
        })
    }

    /// Its calls with what they are given.
    pub fn calls(&self) -> impl Iterator<Item = (Callee, Option<Value>, Option<Value>)> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Calls { callee, first, second } => Some((*callee, *first, *second)),
            _ => None,
        })
    }
}

impl Object {
    /// Reads the function between two addresses; code beyond 64 KiB is not looked at.
    pub fn flow(&self, address: VirtAddr, size: u64) -> Result<Flow, ObjectError> {
        let code = self.code(address, size.min(MAX_BODY))?;
        Ok(Flow { address, size, effects: read(&code, address) })
    }
}

/// What is known at a place of the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    registers: [Option<Value>; REGISTERS],
    /// By register and distance.
    stack: BTreeMap<(Register, i64), Value>,
}

impl State {
    fn entry() -> Self {
        let mut state = Self::default();
        let arguments = (0..).zip(ARGUMENTS);
        arguments.for_each(|(number, register)| state.set(register, Some(Value::Argument(number, 0))));
        state
    }

    fn get(&self, register: Register) -> Option<Value> {
        let whole = register.is_gpr64().then(|| register.number())?;
        self.registers.get(whole).copied().flatten()
    }

    /// The number in a register, of whatever size.
    fn number(&self, register: Register) -> Option<u64> {
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
    fn join(&mut self, other: &Self) {
        for (own, others) in self.registers.iter_mut().zip(&other.registers) {
            if own != others {
                *own = None;
            }
        }
        self.stack.retain(|place, value| other.stack.get(place) == Some(value));
    }

    /// The place on the stack that an operand is.
    fn place(&self, base: Register, index: Register, displacement: u64) -> Option<(Register, i64)> {
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

fn read(code: &[u8], address: VirtAddr) -> Vec<Effect> {
    // What is known where jumps lead to.
    let mut known: BTreeMap<u64, State> = BTreeMap::new();
    let mut effects = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let before = known.clone();
        effects.clear();
        round(code, address, &mut known, &mut effects);
        if before == known {
            break;
        }
    }
    effects
}

fn round(code: &[u8], address: VirtAddr, known: &mut BTreeMap<u64, State>, effects: &mut Vec<Effect>) {
    let mut factory = InstructionInfoFactory::new();
    // None where nothing leads to.
    let mut current = Some(State::entry());
    for instruction in instructions(code, address) {
        if instruction.is_invalid() {
            break;
        }
        match (&mut current, known.get(&instruction.ip())) {
            (Some(state), Some(other)) => state.join(other),
            (None, Some(other)) => current = Some(other.clone()),
            (_, None) => {}
        }
        let Some(state) = &mut current else { continue };
        accesses(&mut factory, &instruction, state, effects);
        let flow = instruction.flow_control();
        let leads_to = target(&instruction).filter(|to| inside(code, address, *to));
        let is_branch = matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch);
        if flow == FlowControl::Call || flow == FlowControl::IndirectCall || is_branch && leads_to.is_none() {
            effects.push(call(&instruction, state));
        }
        if let Some(to) = leads_to.filter(|_| is_branch) {
            known.entry(to.0).and_modify(|known| known.join(state)).or_insert_with(|| state.clone());
        }
        change(&mut factory, &instruction, state);
        if !is_branch && !matches!(flow, FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall)
            || flow == FlowControl::UnconditionalBranch
        {
            current = None;
        }
    }
}

/// Adds what an instruction reads and writes.
fn accesses(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    state: &State,
    effects: &mut Vec<Effect>,
) {
    for memory in factory.info(instruction).used_memory() {
        let is_read = matches!(memory.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite);
        match behind(memory, state) {
            // Vectors are several words.
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
                if let (Some(Value::Loaded(argument, offset)), false) = (state.get(memory.base()), is_read) {
                    effects.push(Effect::Changes(argument, offset));
                }
                let place = state.place(memory.base(), memory.index(), memory.displacement());
                if let (Some((_, offset)), Some((number, bytes))) = (place, stored(instruction, state)) {
                    effects.push(Effect::Keeps { offset, number, bytes });
                }
            }
        }
    }
}

/// How far behind which argument memory is.
fn behind(memory: &UsedMemory, state: &State) -> Option<(u8, i64)> {
    match state.get(memory.base()) {
        Some(Value::Argument(argument, offset)) if memory.index() == Register::None => {
            Some((argument, offset.wrapping_add(memory.displacement().cast_signed())))
        }
        _ => None,
    }
}

/// The number that a `mov` writes to memory, and its size.
fn stored(instruction: &Instruction, state: &State) -> Option<(u64, usize)> {
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

fn call(instruction: &Instruction, state: &State) -> Effect {
    let callee = match target(instruction) {
        Some(target) => Callee::Function(target),
        None if instruction.is_ip_rel_memory_operand() => Callee::Slot(instruction.ip_rel_memory_address()),
        None if instruction.op0_kind() == OpKind::Memory => {
            let table = state.get(instruction.memory_base());
            match table.filter(|_| instruction.memory_index() == Register::None) {
                Some(Value::Loaded(argument, offset)) => {
                    Callee::Method(argument, offset, instruction.memory_displacement64())
                }
                _ => Callee::Unknown,
            }
        }
        None => match state.get(instruction.op0_register()) {
            Some(Value::Slot(slot)) => Callee::Slot(slot),
            Some(Value::Entry(argument, offset, method)) => Callee::Method(argument, offset, method),
            _ => Callee::Unknown,
        },
    };
    Effect::Calls { callee, first: state.get(Register::RDI), second: state.get(Register::RSI) }
}

/// What is known after an instruction.
fn change(factory: &mut InstructionInfoFactory, instruction: &Instruction, state: &mut State) {
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

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
