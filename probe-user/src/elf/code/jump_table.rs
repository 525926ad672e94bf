//! Where a `switch` leads: the targets of a jump through a table of the file.
//!
//! Recognises the forms in which compilers write it, with the comparison that bounds the index. Everything
//! else is refused.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::decode::{stores, writes};
use crate::elf::{Object, VirtAddr};

/// How many instructions before the jump are inspected: compilers need up to eight.
const MAX_BACK: usize = 24;
/// How many instructions are followed back to where a register gets the address of a table.
const MAX_VISITED: usize = 4096;
/// The registers that a call leaves as they are (System V AMD64 ABI, section 3.2.1).
const PRESERVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];
/// Limit of the entries of one table.
const MAX_ENTRIES: u64 = 4096;

/// The addresses to which the jump at `index` of `code` may lead. None if they are not certain. `jumps` are
/// the direct jumps of the function: the target and the index of each, in the order of targets.
pub(super) fn targets(
    object: &Object,
    code: &[Instruction],
    index: usize,
    jumps: &[(u64, usize)],
) -> Option<Vec<VirtAddr>> {
    let backward = Backward { code, factory: InstructionInfoFactory::new(), jumps };
    let jump = code.get(index)?;
    match jump.op0_kind() {
        OpKind::Register => relative(object, backward, index, jump.op0_register()),
        OpKind::Memory => absolute(object, backward, index, jump),
        _ => None,
    }
}

/// `movslq (base,index,4),entry; add base,entry; jmp *entry`: entries relative to the table.
fn relative(
    object: &Object,
    mut code: Backward<'_>,
    index: usize,
    target: Register,
) -> Option<Vec<VirtAddr>> {
    let add = code.last_write(index, target)?;
    let sum = code.at(add)?;
    if sum.mnemonic() != Mnemonic::Add || sum.op1_kind() != OpKind::Register {
        return None;
    }
    let parts = [sum.op0_register(), sum.op1_register()];
    let (load, base) = parts.into_iter().zip([parts[1], parts[0]]).find_map(|(entry, base)| {
        let load = code.last_write(add, entry)?;
        let found = code.at(load)?;
        let is_load = found.mnemonic() == Mnemonic::Movsxd
            && found.op1_kind() == OpKind::Memory
            && found.memory_base() == base
            && found.memory_index_scale() == 4
            && found.memory_displacement64() == 0;
        is_load.then_some((load, base))
    })?;
    let table = code.address_in(load, base)?;
    let count = code.bound(load, code.at(load)?.memory_index())?;
    let bytes = object.read_only_bytes(table, count.checked_mul(4)?)?;
    let (entries, _) = bytes.as_chunks::<4>();
    let target = |entry: &[u8; 4]| VirtAddr(table.wrapping_add_signed(i32::from_le_bytes(*entry).into()));
    Some(entries.iter().map(target).collect())
}

/// `jmp *table(,index,8)`: addresses, which are in the file only if it is loaded where it says.
fn absolute(
    object: &Object,
    mut code: Backward<'_>,
    index: usize,
    jump: &Instruction,
) -> Option<Vec<VirtAddr>> {
    let is_table = jump.memory_base() == Register::None
        && jump.memory_index_scale() == 8
        && jump.memory_index() != Register::None
        && jump.segment_prefix() == Register::None;
    if !is_table || !object.is_fixed {
        return None;
    }
    let count = code.bound(index, jump.memory_index())?;
    let bytes = object.read_only_bytes(jump.memory_displacement64(), count.checked_mul(8)?)?;
    let (entries, _) = bytes.as_chunks::<8>();
    Some(entries.iter().map(|entry| VirtAddr(u64::from_le_bytes(*entry))).collect())
}

/// The instructions before a jump, followed backwards.
struct Backward<'c> {
    code: &'c [Instruction],
    factory: InstructionInfoFactory,
    jumps: &'c [(u64, usize)],
}

/// What holds the index of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IndexPlace {
    Register(Register),
    /// Memory: its base register and the distance from there.
    Memory(Register, u64),
}

/// The index of a table, as code before the jump has it.
#[derive(Clone, Copy)]
struct Index {
    place: IndexPlace,
    /// How many bytes of the place are the index.
    bytes: usize,
}

impl Backward<'_> {
    fn at(&self, index: usize) -> Option<Instruction> {
        self.code.get(index).copied()
    }

    /// The direct jumps to the instruction at `index`.
    fn jumps_to(&self, index: usize) -> impl Iterator<Item = usize> {
        let address = self.at(index).map_or(0, |found| found.ip());
        let first = self.jumps.partition_point(|(target, _)| *target < address);
        let jumps = self.jumps.get(first..).unwrap_or_default();
        jumps.iter().take_while(move |(target, _)| *target == address).map(|(_, from)| *from)
    }

    /// The instruction before `index` in memory, if it leads there.
    fn falls_from(&self, index: usize) -> Option<usize> {
        let before = index.checked_sub(1)?;
        let goes_on = matches!(
            self.at(before)?.flow_control(),
            FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
        );
        goes_on.then_some(before)
    }

    /// The instruction before `index` in execution order, if there is only one.
    fn before(&self, index: usize) -> Option<usize> {
        match self.jumps_to(index).next() {
            Some(_) => None,
            None => self.falls_from(index),
        }
    }

    /// The last instruction before `index` that writes `register`, on the only way there.
    fn last_write(&mut self, index: usize, register: Register) -> Option<usize> {
        let mut at = index;
        for _ in 0..MAX_BACK {
            at = self.before(at)?;
            let found = self.at(at)?;
            if is_call(&found) {
                return None;
            }
            if writes(&mut self.factory, &found, &[register.full_register()]) {
                return Some(at);
            }
        }
        None
    }

    /// The address that `register` holds at `index`, the same on every way there.
    fn address_in(&mut self, index: usize, register: Register) -> Option<u64> {
        let register = register.full_register();
        let (mut address, mut waiting, mut visited) = (None, vec![index], BTreeSet::new());
        while let Some(at) = waiting.pop() {
            let before: Vec<usize> = self.jumps_to(at).chain(self.falls_from(at)).collect();
            for at in before.into_iter().filter(|before| visited.insert(*before)).collect::<Vec<_>>() {
                let found = self.at(at)?;
                if is_call(&found) && !PRESERVED.contains(&register) || visited.len() > MAX_VISITED {
                    return None;
                }
                if !writes(&mut self.factory, &found, &[register]) || is_call(&found) {
                    waiting.push(at);
                    continue;
                }
                let is_address = found.mnemonic() == Mnemonic::Lea && found.is_ip_rel_memory_operand();
                let loaded = is_address.then(|| found.ip_rel_memory_address())?;
                if *address.get_or_insert(loaded) != loaded {
                    return None;
                }
            }
        }
        // The entry of the function, where the register holds anything, is on no way.
        if visited.contains(&0) { None } else { address }
    }

    /// The number of values that `register` can have: `cmp $last,register; ja …`.
    fn bound(&mut self, index: usize, register: Register) -> Option<u64> {
        // A register of four bytes has zeros above them: an instruction that writes it clears these.
        let mut index_at = Index { place: IndexPlace::Register(register.full_register()), bytes: 4 };
        let mut at = index;
        for _ in 0..MAX_BACK {
            at = self.before(at)?;
            let found = self.at(at)?;
            if is_call(&found) {
                return None;
            }
            if matches!(found.mnemonic(), Mnemonic::Ja | Mnemonic::Jae) {
                return self.compared(at, index_at);
            }
            match index_at.place {
                IndexPlace::Register(held) => {
                    if writes(&mut self.factory, &found, &[held]) {
                        index_at = copied(&found, index_at)?;
                    }
                }
                IndexPlace::Memory(base, _) => {
                    if stores(&mut self.factory, &found) || writes(&mut self.factory, &found, &[base]) {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// The number of values below the branch at `branch`.
    fn compared(&mut self, branch: usize, index: Index) -> Option<u64> {
        let compare = self.before(branch)?;
        let found = self.at(compare)?;
        let is_it = found.mnemonic() == Mnemonic::Cmp
            && place_of(&found, 0) == Some(index.place)
            && operand_bytes(&found, 0) >= index.bytes
            && !matches!(found.op1_kind(), OpKind::Register | OpKind::Memory);
        if !is_it {
            return None;
        }
        let is_above = self.at(branch)?.mnemonic() == Mnemonic::Ja;
        let count = found.immediate(1).checked_add(u64::from(is_above))?;
        (1..=MAX_ENTRIES).contains(&count).then_some(count)
    }
}

/// A register, or memory at a register, that an operand names.
fn place_of(instruction: &Instruction, operand: u32) -> Option<IndexPlace> {
    match instruction.op_kind(operand) {
        OpKind::Register => Some(IndexPlace::Register(instruction.op_register(operand).full_register())),
        OpKind::Memory
            if instruction.memory_index() == Register::None
                && instruction.segment_prefix() == Register::None
                && instruction.memory_base().is_gpr64() =>
        {
            Some(IndexPlace::Memory(instruction.memory_base(), instruction.memory_displacement64()))
        }
        _ => None,
    }
}

/// Where the index is before an instruction that copies it. None if the instruction does not copy all of it.
fn copied(copy: &Instruction, index: Index) -> Option<Index> {
    let (read, written) = (operand_bytes(copy, 1), operand_bytes(copy, 0));
    let is_whole = match copy.mnemonic() {
        Mnemonic::Mov => read >= index.bytes,
        Mnemonic::Movzx => written >= index.bytes,
        _ => false,
    };
    let place = place_of(copy, 1).filter(|_| is_whole)?;
    Some(Index { place, bytes: read.min(index.bytes) })
}

/// The size of an operand that is a register or memory.
fn operand_bytes(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory => instruction.memory_size().size(),
        _ => 0,
    }
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}
