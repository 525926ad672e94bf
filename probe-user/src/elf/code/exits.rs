//! Where a function returns: places for probes, of which every return of the function passes exactly one.
//!
//! A return probe of the kernel replaces the return address on the stack and remembers it by thread, which
//! ends a program that switches stacks inside the call. A probe at one of these places replaces nothing.
//!
//! Each `ret` has one place. It is the conditional jump of the stack protector's check before it, which the
//! kernel emulates, if nothing between the two branches, changes the returned value, or stores anything. It
//! is the `ret` itself otherwise, which the kernel single-steps. Jumps out of the function are followed: what
//! they lead to returns in its place. A jump whose targets are not certain makes the function refused.

use std::collections::BTreeMap;

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use probe_common::{MAX_SLOT_WORDS, ReturnSlot, StackBase};

use super::decode::{
    self, UnprobeableCode, bytes_of, has_bad_prefix, instructions, is_emulated, stores, target, writes,
};
use super::function_body::AmbiguousCode;
use super::jump_table;
use crate::elf::{FileOffset, FunctionBounds, FunctionTable, Object, ObjectError, VirtAddr};

/// Limit of the code of one function and of all that it jumps to, in bytes.
const MAX_CODE: u64 = 512 << 10;
/// Limit of the functions that one function jumps to, directly or through others.
const MAX_PARTS: usize = 24;
/// Limit of the exits of one function: each takes a probe.
const MAX_EXITS: usize = 128;
/// How many instructions before a `ret` are inspected: an epilogue has up to twenty.
const MAX_EPILOGUE: usize = 32;
/// How many instructions before its conditional jump a check of the stack protector may begin.
const MAX_CHECK: usize = 8;
/// Where the stack protector's value is, relative to FS (the ABI of x86-64).
const GUARD: u64 = 0x28;
/// The size of a word on the stack.
const WORD: i64 = 8;

/// A place that returns of a function pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitSite {
    /// Its offset in the file.
    pub offset: FileOffset,
    /// Where the return address is there.
    pub slot: ReturnSlot,
    /// Whether the kernel emulates the instruction. If not, each hit costs a single step on top.
    pub emulated: bool,
}

impl ExitSite {
    /// At a `ret`.
    pub fn ret(offset: FileOffset) -> Self {
        Self { offset, slot: ReturnSlot::ON_TOP, emulated: false }
    }
}

/// Why the exits of a function are not certain.
#[derive(Debug, thiserror::Error)]
pub enum UncertainExits {
    /// Its code contradicts itself.
    #[error("its code is not certain: {0}")]
    Unclear(#[from] AmbiguousCode),
    /// A jump through a register or memory.
    #[error("where its jump at {0:#x} leads is not certain")]
    IndirectJump(u64),
    /// A jump to code whose bounds are not known, or that is in another file.
    #[error("its jump to {0:#x} leaves what ctrace can follow")]
    Unfollowed(u64),
    /// Its code never returns, as far as it could be decoded.
    #[error("its code has no return instruction")]
    Never,
    /// Too many places.
    #[error("it returns at {0} places, more than {MAX_EXITS}")]
    TooMany(usize),
    /// It jumps to too many functions.
    #[error("it jumps to more than {MAX_PARTS} other functions")]
    TooManyParts,
    /// An exit cannot take a probe.
    #[error(transparent)]
    Site(#[from] UnprobeableCode),
    /// The file cannot be read there.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl FunctionTable<'_> {
    /// The exits of a function, in file order. A size of 0 means that its end is to be found.
    pub fn exits(&self, address: VirtAddr, size: u64) -> Result<Vec<ExitSite>, UncertainExits> {
        let bounds = match size {
            0 => self.at(address)?.filter(|found| found.address == address),
            size => Some(FunctionBounds { address, size }),
        };
        let bounds = bounds.ok_or(UncertainExits::Unfollowed(address.0))?;
        let code = ReachableCode::from(self, bounds)?;
        let mut exits = BTreeMap::new();
        for part in &code.parts {
            part.exits(self.object(), &code.targets, &mut exits)?;
        }
        match exits.len() {
            0 => Err(UncertainExits::Never),
            found if found > MAX_EXITS => Err(UncertainExits::TooMany(found)),
            _ => Ok(exits.into_values().collect()),
        }
    }

    /// The function to which a jump leads, through a stub of the PLT if need be.
    fn jump_target(&self, target: VirtAddr) -> Result<Option<(VirtAddr, FunctionBounds)>, ObjectError> {
        let object = self.object();
        let stub = object.code(target, 16)?;
        let target = match decode::plt_slot(&stub, target) {
            None => target,
            Some(slot) => match self.slot_target(slot)? {
                Some(function) => function,
                None => return Ok(None),
            },
        };
        Ok(self.at(target)?.map(|bounds| (target, bounds)))
    }
}

/// A function and everything that it jumps to.
struct ReachableCode {
    parts: Vec<CodePart>,
    /// How many jumps lead to an address.
    targets: BTreeMap<u64, usize>,
}

impl ReachableCode {
    fn from(table: &FunctionTable<'_>, first: FunctionBounds) -> Result<Self, UncertainExits> {
        let mut reachable = Self { parts: Vec::new(), targets: BTreeMap::new() };
        reachable.add(table.object(), first)?;
        let (mut next, mut size) = (0, first.size);
        while let Some(part) = reachable.parts.get(next) {
            next += 1;
            for to in part.jumps(table)? {
                let mut to = to;
                if !reachable.contains(to) {
                    let found = table.jump_target(to).ok().flatten();
                    let (place, bounds) = found.ok_or(UncertainExits::Unfollowed(to.0))?;
                    to = place;
                    if !reachable.contains(to) {
                        size = size.saturating_add(bounds.size);
                        if reachable.parts.len() >= MAX_PARTS || size > MAX_CODE {
                            return Err(UncertainExits::TooManyParts);
                        }
                        reachable.add(table.object(), bounds)?;
                    }
                }
                *reachable.targets.entry(to.0).or_default() += 1;
            }
        }
        let begins = |to: u64| reachable.parts.iter().any(|part| part.index(to).is_some());
        match reachable.targets.keys().find(|to| !begins(**to)) {
            Some(to) => Err(AmbiguousCode::Overlap(to.wrapping_sub(first.address.0)).into()),
            None => Ok(reachable),
        }
    }

    fn contains(&self, address: VirtAddr) -> bool {
        self.parts.iter().any(|part| decode::inside(&part.bytes, part.address, address))
    }

    fn add(&mut self, object: &Object, bounds: FunctionBounds) -> Result<(), UncertainExits> {
        if bounds.size > MAX_CODE {
            return Err(UncertainExits::TooManyParts);
        }
        let bytes = object.body(bounds.address, bounds.size)?;
        let part = CodePart::decode(bytes, bounds.address)?;
        if part.runs_over() {
            return Err(UncertainExits::Unfollowed(bounds.address.0.saturating_add(bounds.size)));
        }
        self.parts.push(part);
        Ok(())
    }
}

/// The code of one function.
struct CodePart {
    address: VirtAddr,
    bytes: Vec<u8>,
    instructions: Vec<Instruction>,
}

impl CodePart {
    fn decode(bytes: Vec<u8>, address: VirtAddr) -> Result<Self, AmbiguousCode> {
        let instructions: Vec<Instruction> = instructions(&bytes, address).collect();
        for instruction in &instructions {
            let offset = instruction.ip().wrapping_sub(address.0);
            let is_far = instruction.flow_control() == FlowControl::Return
                && !matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16);
            if instruction.is_invalid() || instruction.flow_control() == FlowControl::XbeginXabortXend {
                return Err(AmbiguousCode::Invalid(offset));
            }
            if is_far {
                return Err(AmbiguousCode::FarReturn(offset));
            }
        }
        if instructions.is_empty() {
            return Err(AmbiguousCode::Empty);
        }
        Ok(Self { address, bytes, instructions })
    }

    /// Whether its last instruction leads to what is behind it. A call does not: compilers end a function
    /// with one only if that never returns.
    fn runs_over(&self) -> bool {
        let is_padding = |found: &&Instruction| matches!(found.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
        let last = self.instructions.iter().rev().find(|found| !is_padding(found));
        last.is_none_or(|last| {
            matches!(last.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch)
        })
    }

    /// The index of the instruction at this address.
    fn index(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, Instruction::ip).ok()
    }

    /// The targets of all jumps.
    fn jumps(&self, table: &FunctionTable<'_>) -> Result<Vec<VirtAddr>, UncertainExits> {
        let mut targets = Vec::new();
        let mut direct = Vec::new();
        for (index, jump) in self.instructions.iter().enumerate() {
            let flow = jump.flow_control();
            if matches!(flow, FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) {
                let to = target(jump).ok_or(UncertainExits::IndirectJump(jump.ip()))?;
                targets.push(to);
                direct.push((to.0, index));
            }
        }
        direct.sort_unstable();
        for (index, jump) in self.instructions.iter().enumerate() {
            if jump.flow_control() != FlowControl::IndirectBranch {
                continue;
            }
            let found = if jump.is_ip_rel_memory_operand() {
                // Through the global offset table, to another function.
                table.slot_target(VirtAddr(jump.ip_rel_memory_address()))?.map(|target| vec![target])
            } else {
                jump_table::targets(table.object(), &self.instructions, index, &direct)
            };
            targets.extend(found.ok_or(UncertainExits::IndirectJump(jump.ip()))?);
        }
        Ok(targets)
    }

    /// Adds the place of each `ret`.
    fn exits(
        &self,
        object: &Object,
        targets: &BTreeMap<u64, usize>,
        exits: &mut BTreeMap<FileOffset, ExitSite>,
    ) -> Result<(), UncertainExits> {
        let mut epilogue = Epilogue { part: self, targets, factory: InstructionInfoFactory::new() };
        for (index, ret) in self.instructions.iter().enumerate() {
            if ret.flow_control() != FlowControl::Return {
                continue;
            }
            let (place, slot) = epilogue.checked(index).unwrap_or((index, ReturnSlot::ON_TOP));
            let place = self.instructions.get(place).unwrap_or(ret);
            let bytes = bytes_of(&self.bytes, place, self.address);
            if has_bad_prefix(bytes) {
                let offset = place.ip().wrapping_sub(self.address.0);
                return Err(UnprobeableCode::Unhandled(offset).into());
            }
            let address = VirtAddr(place.ip());
            let offset = object.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
            exits.insert(offset, ExitSite { offset, slot, emulated: is_emulated(bytes, place) });
        }
        Ok(())
    }
}

/// The end of a function, followed backwards from its `ret`.
struct Epilogue<'p> {
    part: &'p CodePart,
    targets: &'p BTreeMap<u64, usize>,
    factory: InstructionInfoFactory,
}

impl Epilogue<'_> {
    fn at(&self, index: usize) -> Option<&Instruction> {
        self.part.instructions.get(index)
    }

    fn jumps_to(&self, index: usize) -> usize {
        self.at(index).and_then(|found| self.targets.get(&found.ip()).copied()).unwrap_or(0)
    }

    /// The conditional jump of the stack protector before the `ret` at `ret`, and where the return address is
    /// there.
    fn checked(&mut self, ret: usize) -> Option<(usize, ReturnSlot)> {
        let mut first = ret;
        for _ in 0..MAX_EPILOGUE {
            if self.jumps_to(first) > 0 {
                return self.jumped_over(first, ret);
            }
            let before = first.checked_sub(1)?;
            match self.at(before)?.flow_control() {
                FlowControl::Next => first = before,
                // `jne` to the call that reports the damage: what follows is the undamaged case.
                FlowControl::ConditionalBranch if self.at(before)?.mnemonic() == Mnemonic::Jne => {
                    return self.place(before, first, ret);
                }
                _ => return None,
            }
        }
        None
    }

    /// The same for `je` over the call that reports the damage.
    fn jumped_over(&mut self, first: usize, ret: usize) -> Option<(usize, ReturnSlot)> {
        let (jump, call) = (first.checked_sub(2)?, first.checked_sub(1)?);
        let is_over = self.jumps_to(first) == 1
            && self.jumps_to(call) == 0
            && self.at(call)?.flow_control() == FlowControl::Call
            && self.at(jump)?.mnemonic() == Mnemonic::Je
            && target(self.at(jump)?)?.0 == self.at(first)?.ip();
        if is_over { self.place(jump, first, ret) } else { None }
    }

    fn place(&mut self, jump: usize, first: usize, ret: usize) -> Option<(usize, ReturnSlot)> {
        let instruction = self.at(jump)?;
        let bytes = bytes_of(&self.part.bytes, instruction, self.part.address);
        let fits = is_emulated(bytes, instruction) && !has_bad_prefix(bytes) && self.is_check(jump);
        fits.then_some(())?;
        let slot = self.slot(first, ret)?;
        Some((jump, slot))
    }

    /// Whether the conditional jump at `jump` depends on a comparison with the stack protector's value.
    fn is_check(&mut self, jump: usize) -> bool {
        let mut at = jump;
        for _ in 0..MAX_CHECK {
            if self.jumps_to(at) > 0 {
                return false;
            }
            let Some(before) = at.checked_sub(1) else { return false };
            at = before;
            let Some(found) = self.at(at).copied() else { return false };
            if found.flow_control() != FlowControl::Next {
                return false;
            }
            if found.rflags_modified() == 0 {
                continue;
            }
            let compares = matches!(found.mnemonic(), Mnemonic::Sub | Mnemonic::Cmp | Mnemonic::Xor);
            return compares && (is_guard(&found) || self.loaded_guard(at, &found));
        }
        false
    }

    /// Whether one register of the comparison at `compare` was loaded with the stack protector's value.
    fn loaded_guard(&mut self, compare: usize, comparison: &Instruction) -> bool {
        let operands = (0..comparison.op_count()).filter(|op| comparison.op_kind(*op) == OpKind::Register);
        let registers: Vec<Register> =
            operands.map(|op| comparison.op_register(op).full_register()).collect();
        registers.into_iter().any(|register| self.is_loaded(compare, register))
    }

    fn is_loaded(&mut self, compare: usize, register: Register) -> bool {
        let mut at = compare;
        for _ in 0..MAX_CHECK {
            if self.jumps_to(at) > 0 {
                return false;
            }
            let Some(found) = at.checked_sub(1).and_then(|before| self.at(before)).copied() else {
                return false;
            };
            at -= 1;
            if found.flow_control() != FlowControl::Next {
                return false;
            }
            if writes(&mut self.factory, &found, &[register]) {
                return found.mnemonic() == Mnemonic::Mov && is_guard(&found);
            }
        }
        false
    }

    /// Where the return address is before the instruction at `first`, from where the code runs straight to
    /// the `ret` at `ret`. None if something on the way changes the returned value or memory, or moves the
    /// stack pointer in a way that is not certain.
    fn slot(&mut self, first: usize, ret: usize) -> Option<ReturnSlot> {
        let mut stack = StackMotion { base: StackBase::StackPointer, bytes: 0, has_frame_pointer: true };
        for index in first..ret {
            let instruction = *self.at(index)?;
            if stores(&mut self.factory, &instruction)
                || writes(&mut self.factory, &instruction, &[Register::RAX])
            {
                return None;
            }
            if writes(&mut self.factory, &instruction, &[Register::RSP]) {
                stack.step(&instruction)?;
            }
            let frame_pointer = writes(&mut self.factory, &instruction, &[Register::RBP]);
            stack.has_frame_pointer &= !frame_pointer;
        }
        let words = u32::try_from(stack.bytes / WORD).ok().filter(|words| *words <= MAX_SLOT_WORDS)?;
        (stack.bytes % WORD == 0).then_some(ReturnSlot { base: stack.base, words })
    }
}

/// How far the stack pointer is from what a register held at the exit.
struct StackMotion {
    base: StackBase,
    bytes: i64,
    /// Whether RBP still holds what it held at the exit.
    has_frame_pointer: bool,
}

impl StackMotion {
    /// Follows an instruction that moves the stack pointer. None if it does so in a way that is not certain.
    fn step(&mut self, instruction: &Instruction) -> Option<()> {
        let to_frame = |bytes: i64| self.has_frame_pointer.then_some((StackBase::FramePointer, bytes));
        let by = |bytes: i64| Some((self.base, self.bytes.checked_add(bytes)?));
        let displacement = instruction.memory_displacement64().cast_signed();
        (self.base, self.bytes) = match (instruction.mnemonic(), instruction.op0_register()) {
            (Mnemonic::Pop, register) if register != Register::RSP && register.is_gpr64() => by(WORD),
            (Mnemonic::Leave, _) => to_frame(WORD),
            (Mnemonic::Add, Register::RSP) if is_immediate(instruction) => {
                by(instruction.immediate(1).cast_signed())
            }
            (Mnemonic::Sub, Register::RSP) if is_immediate(instruction) => {
                by(instruction.immediate(1).cast_signed().checked_neg()?)
            }
            (Mnemonic::Mov, Register::RSP) if instruction.op1_register() == Register::RBP => to_frame(0),
            (Mnemonic::Lea, Register::RSP) if instruction.memory_index() == Register::None => {
                match instruction.memory_base() {
                    Register::RSP => by(displacement),
                    Register::RBP => to_frame(displacement),
                    _ => None,
                }
            }
            _ => None,
        }?;
        Some(())
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory)
}

/// Whether an operand is the stack protector's value.
fn is_guard(instruction: &Instruction) -> bool {
    let in_memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    in_memory
        && instruction.memory_segment() == Register::FS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == GUARD
}

#[cfg(test)]
mod tests;
