//! The evidence that all locators share, gathered once per object: which functions refer to which strings.

use std::collections::BTreeMap;

use crate::elf::code::decode;
use crate::elf::{
    Flow, FunctionBounds, FunctionTable, Object, ObjectError, StringPattern, StringRef, Symbol, Uses,
    VirtAddr,
};

/// Limit of the functions that are decoded: a source file of OpenSSL has about 300.
const MAX_FUNCTIONS: usize = 2048;
/// How many instructions before and after a reference to a string belong to the same call.
const AROUND: u32 = 12;
/// Limit of the callers of one function that are checked.
const MAX_CALLERS: usize = 64;

/// The functions that refer to one of the strings.
pub(super) struct Evidence<'o> {
    pub object: &'o Object,
    frames: FunctionTable<'o>,
    texts: Vec<StringRef>,
    functions: Vec<Uses>,
}

impl<'o> Evidence<'o> {
    /// Gathers the evidence. None if no function refers to any of the strings.
    pub(super) fn gather(object: &'o Object, texts: Vec<StringRef>) -> Result<Option<Self>, ObjectError> {
        if texts.is_empty() {
            return Ok(None);
        }
        let frames = object.frames()?;
        let mut extents = BTreeMap::new();
        for reference in object.references(&texts)? {
            if let Some(function) = frames.at(reference)? {
                extents.insert(function.address, function.size);
            }
        }
        let mut functions = Vec::new();
        for (address, size) in extents.into_iter().take(MAX_FUNCTIONS) {
            let uses = object.uses(address, size)?;
            if uses.any(|operand| texts.iter().any(|text| text.is_at(operand))) {
                functions.push(uses);
            }
        }
        Ok((!functions.is_empty()).then_some(Self { object, frames, texts, functions }))
    }

    /// The functions that refer to all of these strings at one place, together with all of these numbers.
    pub(super) fn with(&self, needles: &[StringPattern], numbers: &[u64]) -> Vec<&Uses> {
        self.with_within(AROUND, needles, numbers)
    }

    /// The same with another limit of how many instructions may be between them.
    pub(super) fn with_within(&self, around: u32, needles: &[StringPattern], numbers: &[u64]) -> Vec<&Uses> {
        let fits = |function: &&Uses| {
            self.places_within(around, function, needles).any(|near| has_all(&near, numbers))
        };
        self.functions.iter().filter(fits).collect()
    }

    /// The operands near each place at which a function refers to all of the strings.
    pub(super) fn places(
        &self,
        function: &Uses,
        needles: &[StringPattern],
    ) -> impl Iterator<Item = Vec<u64>> {
        self.places_within(AROUND, function, needles)
    }

    fn places_within(
        &self,
        around: u32,
        function: &Uses,
        needles: &[StringPattern],
    ) -> impl Iterator<Item = Vec<u64>> {
        let first = needles.first().copied();
        let near = function.near(around, |operand| first.is_some_and(|needle| self.is(needle, operand)));
        near.into_iter()
            .filter(|near| needles.iter().all(|needle| near.iter().any(|operand| self.is(*needle, *operand))))
    }

    /// Whether an operand is the address of this string.
    fn is(&self, needle: StringPattern, operand: u64) -> bool {
        self.texts.iter().any(|text| text.needle == needle && text.is_at(operand))
    }

    /// The functions that call this one or jump to it.
    pub(super) fn callers(&self, callee: VirtAddr) -> Result<Vec<Uses>, ObjectError> {
        let mut extents = BTreeMap::new();
        for call in self.frames.callers_of(&[callee], &[])?.into_iter().take(MAX_CALLERS) {
            if let Some(function) = self.frames.at(call)? {
                extents.insert(function.address, function.size);
            }
        }
        let uses = extents.into_iter().map(|(address, size)| self.object.uses(address, size));
        let calls = |uses: &Result<Uses, _>| uses.as_ref().map_or(true, |uses| calls(uses, callee));
        uses.filter(calls).collect()
    }

    /// The effects of a function on its arguments.
    pub(super) fn flow(&self, function: &Uses) -> Result<Flow, ObjectError> {
        self.frames.flow(FunctionBounds { address: function.address, size: function.size })
    }

    /// Whether a function has a length as its third argument, as in the source code.
    pub(super) fn takes_length(&self, function: &Uses) -> bool {
        self.object.takes_three_arguments(function).is_ok_and(|takes| takes)
    }

    /// Whether the first call of a function is to `callee`, with the function's own arguments.
    pub(super) fn begins_with(&self, function: &Uses, callee: VirtAddr) -> Result<bool, ObjectError> {
        let body = self.object.code(function.address, function.size)?;
        Ok(decode::forwarder(&body, function.address) == Some(callee))
    }

    /// Whether, in addition, it calls nothing else.
    pub(super) fn forwards(&self, function: &Uses, callee: VirtAddr) -> Result<bool, ObjectError> {
        let only = function.calls.direct.len() == 1 && function.calls.indirect == 0;
        Ok(only && self.begins_with(function, callee)?)
    }
}

pub(super) fn has_all(operands: &[u64], numbers: &[u64]) -> bool {
    numbers.iter().all(|number| operands.contains(number))
}

/// Whether a function calls another one directly.
pub(super) fn calls(from: &Uses, callee: VirtAddr) -> bool {
    from.calls.direct.iter().any(|call| call.target == callee)
}

pub(super) fn symbol(function: &Uses) -> Symbol {
    Symbol { address: function.address, size: function.size }
}

/// The only function in the list, if there is exactly one.
pub(super) fn only<'u>(functions: &[&'u Uses]) -> Option<&'u Uses> {
    match functions {
        [function] => Some(function),
        _ => None,
    }
}
