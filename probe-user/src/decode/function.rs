//! Records of `ctrace uprobe`: calls of functions.

use probe_common::{Function, FunctionStack, ROOMS};

use super::{DecodeError, prefix};
use crate::event::Plaintext;

/// A call that has begun or returned.
#[derive(Clone, Copy, Debug)]
pub struct FunctionRecord<'a> {
    /// Everything but the captured bytes.
    pub head: &'a Function,
    /// The slots of captured bytes.
    slots: Plaintext<'a>,
    /// Bytes of a slot.
    slot: usize,
}

impl<'a> FunctionRecord<'a> {
    /// Captured bytes of argument `index`, which is the one that captures of this `number`, from 0; none if the
    /// record has no such bytes.
    pub fn captured(&self, index: usize, number: usize) -> Option<Plaintext<'a>> {
        let length = usize::try_from(*self.head.lengths.get(index)?).ok()?;
        let begin = number.checked_mul(self.slot)?;
        if length > self.slot {
            return None;
        }
        self.slots.0.get(begin..begin.checked_add(length)?).map(Plaintext)
    }

    /// Whether argument `index` could not be read.
    pub fn is_faulty(&self, index: usize) -> bool {
        self.head.faults >> index & 1 != 0
    }

    /// Whether argument `index` was cut.
    pub fn is_cut(&self, index: usize) -> bool {
        self.head.cut >> index & 1 != 0
    }

    /// The record as it is kept until the call's return: all of its bytes.
    pub fn slots(&self) -> Plaintext<'a> {
        self.slots
    }

    /// The record that was kept.
    pub fn kept(head: &'a Function, slots: &'a [u8]) -> Self {
        let slot = slot(head).unwrap_or(0);
        Self { head, slots: Plaintext(slots), slot }
    }
}

/// Where a call came from.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Everything but the frames.
    pub head: &'a FunctionStack,
    /// Addresses, innermost first.
    pub frames: &'a [u64],
}

fn slot(head: &Function) -> Option<usize> {
    let (_, bytes) = ROOMS.get(usize::try_from(head.room).ok()?)?;
    usize::try_from(*bytes).ok()
}

pub(super) fn call(bytes: &[u8]) -> Result<FunctionRecord<'_>, DecodeError> {
    let (head, rest) = prefix::<Function>(bytes)?;
    let room = head.room;
    let known = usize::try_from(room).ok().and_then(|room| ROOMS.get(room));
    let Some((values, slot)) = known.copied() else {
        return Err(DecodeError::ArgumentBeyondRoom { length: 0, room });
    };
    if let Some(length) = head.lengths.iter().find(|length| **length > slot) {
        return Err(DecodeError::ArgumentBeyondRoom { length: *length, room });
    }
    let (values, slot) = (values as usize, slot as usize);
    let Some(slots) = rest.get(..values * slot) else {
        return Err(DecodeError::Short { have: bytes.len(), need: size_of::<Function>() + values * slot });
    };
    Ok(FunctionRecord { head, slots: Plaintext(slots), slot })
}

pub(super) fn stack(bytes: &[u8]) -> Result<Stack<'_>, DecodeError> {
    let (head, _) = prefix::<FunctionStack>(bytes)?;
    let frames = usize::try_from(head.count).ok().and_then(|count| head.frames.get(..count));
    frames.map(|frames| Stack { head, frames }).ok_or(DecodeError::Frames(head.count))
}
