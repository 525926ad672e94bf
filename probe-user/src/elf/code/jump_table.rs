//! Where a `switch` leads: the targets of a jump through a table of the file.
//!
//! Recognises the forms in which compilers write it, with the comparison that bounds the index. Everything
//! else is refused.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::decode::writes;
use crate::elf::{Object, VirtAddr};

/// How many instructions before the jump are inspected: compilers need up to eight.
const MAX_BACK: usize = 24;
/// Limit of the entries of one table.
const MAX_ENTRIES: u64 = 4096;

/// The addresses to which the jump at `index` of `code` may lead. None if they are not certain. `is_target`
/// says whether a jump leads to an address.
pub(super) fn targets(
    object: &Object,
    code: &[Instruction],
    index: usize,
    is_target: impl Fn(u64) -> bool,
) -> Option<Vec<VirtAddr>> {
    let backward = Backward { code, factory: InstructionInfoFactory::new(), is_target };
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
    mut code: Backward<'_, impl Fn(u64) -> bool>,
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
    mut code: Backward<'_, impl Fn(u64) -> bool>,
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
struct Backward<'c, F> {
    code: &'c [Instruction],
    factory: InstructionInfoFactory,
    is_target: F,
}

impl<F: Fn(u64) -> bool> Backward<'_, F> {
    fn at(&self, index: usize) -> Option<Instruction> {
        self.code.get(index).copied()
    }

    /// The instruction before `index` in execution order, if there is only one.
    fn before(&self, index: usize) -> Option<usize> {
        if (self.is_target)(self.at(index)?.ip()) {
            return None;
        }
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

    /// The address that `register` holds: from the instruction before, or from the only one of the function
    /// that writes it, but for those that restore it at the end.
    fn address_in(&mut self, index: usize, register: Register) -> Option<u64> {
        let last = match self.last_write(index, register) {
            Some(last) => last,
            None => {
                let mut others = (0..self.code.len()).filter(|at| {
                    let found = self.code.get(*at).copied().unwrap_or_default();
                    found.mnemonic() != Mnemonic::Pop
                        && writes(&mut self.factory, &found, &[register.full_register()])
                });
                let only = others.next()?;
                others.next().is_none().then_some(only)?
            }
        };
        let found = self.at(last)?;
        let is_address = found.mnemonic() == Mnemonic::Lea && found.is_ip_rel_memory_operand();
        is_address.then(|| found.ip_rel_memory_address())
    }

    /// The number of values that `register` can have: `cmp $last,register; ja …`.
    fn bound(&mut self, index: usize, register: Register) -> Option<u64> {
        let mut register = register.full_register();
        let mut at = index;
        for _ in 0..MAX_BACK {
            at = self.before(at)?;
            let found = self.at(at)?;
            if is_call(&found) {
                return None;
            }
            if matches!(found.mnemonic(), Mnemonic::Ja | Mnemonic::Jae) {
                return self.compared(at, register);
            }
            if writes(&mut self.factory, &found, &[register]) {
                let is_copy = matches!(found.mnemonic(), Mnemonic::Mov | Mnemonic::Movzx)
                    && found.op1_kind() == OpKind::Register;
                register = Some(found.op1_register().full_register()).filter(|_| is_copy)?;
            }
        }
        None
    }

    /// The number of values below the branch at `branch`.
    fn compared(&mut self, branch: usize, register: Register) -> Option<u64> {
        let compare = self.before(branch)?;
        let found = self.at(compare)?;
        let is_it = found.mnemonic() == Mnemonic::Cmp
            && found.op0_kind() == OpKind::Register
            && found.op0_register().full_register() == register
            && found.op1_kind() != OpKind::Register
            && found.op1_kind() != OpKind::Memory;
        if !is_it {
            return None;
        }
        let is_above = self.at(branch)?.mnemonic() == Mnemonic::Ja;
        let count = found.immediate(1).checked_add(u64::from(is_above))?;
        (1..=MAX_ENTRIES).contains(&count).then_some(count)
    }
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}
