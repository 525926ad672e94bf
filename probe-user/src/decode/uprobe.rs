//! Records of `ctrace uprobe`: calls of functions.

use probe_common::{FunctionEvent, FunctionStack, SIZE_CLASSES};

use super::{DecodeError, prefix};
use crate::event::Plaintext;

/// The entry or the return of a call.
#[derive(Clone, Debug)]
pub struct FunctionRecord<'a> {
    /// Everything except the captured bytes.
    pub head: &'a FunctionEvent,
    /// The captured bytes.
    bytes: Plaintext<'a>,
    layout: Layout,
}

/// How captured bytes are arranged.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// Each in a slot of this many bytes, as the kernel reserves them.
    Slots(usize),
    /// One after the other.
    Packed,
}

impl<'a> FunctionRecord<'a> {
    /// The captured bytes of argument `index`, which is the capturing argument with this `number`, counted
    /// from 0. None if the record has no such bytes.
    pub fn captured(&self, index: usize, number: usize) -> Option<Plaintext<'a>> {
        let length = self.length(index)?;
        let begin = match self.layout {
            Layout::Slots(slot) if length > slot => return None,
            Layout::Slots(slot) => number.checked_mul(slot)?,
            Layout::Packed => (0..index).filter_map(|before| self.length(before)).sum(),
        };
        self.bytes.part(begin..begin.checked_add(length)?)
    }

    /// How many bytes were captured of argument `index`. None if it could not be read.
    fn length(&self, index: usize) -> Option<usize> {
        let length = *self.head.lengths.get(index).filter(|_| !self.is_faulty(index))?;
        usize::try_from(length).ok()
    }

    /// Whether argument `index` could not be read.
    pub fn is_faulty(&self, index: usize) -> bool {
        self.head.faults >> index & 1 != 0
    }

    /// Whether argument `index` was truncated.
    pub fn is_cut(&self, index: usize) -> bool {
        self.head.cut >> index & 1 != 0
    }

    /// Copies the captured bytes without the unused room of their slots, so that they can be kept.
    /// `capturing` yields the indexes of the arguments that capture, in order.
    pub fn packed(&self, capturing: impl Iterator<Item = usize>) -> Box<[u8]> {
        let captured = capturing.enumerate().filter_map(|(number, index)| self.captured(index, number));
        let mut packed = Vec::new();
        captured.for_each(|bytes| packed.extend_from_slice(&bytes.0));
        packed.into()
    }

    /// Restores the record whose [`FunctionRecord::packed`] bytes were kept.
    pub fn kept(head: &'a FunctionEvent, packed: &'a [u8]) -> Self {
        Self { head, bytes: Plaintext::of(packed), layout: Layout::Packed }
    }
}

/// The stack of a call.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Everything except the frames.
    pub head: &'a FunctionStack,
    /// The addresses, innermost first.
    pub frames: &'a [u64],
}

pub(super) fn call(bytes: &[u8]) -> Result<FunctionRecord<'_>, DecodeError> {
    let (head, rest) = prefix::<FunctionEvent>(bytes)?;
    let room = head.room;
    let class = usize::try_from(room).ok().and_then(|room| SIZE_CLASSES.get(room));
    let Some((values, slot)) = class.copied() else {
        return Err(DecodeError::ArgumentBeyondRoom { length: 0, room });
    };
    if let Some(length) = head.lengths.iter().find(|length| **length > slot) {
        return Err(DecodeError::ArgumentBeyondRoom { length: *length, room });
    }
    let (values, slot) = (values as usize, slot as usize);
    let Some(captured) = rest.get(..values * slot) else {
        return Err(DecodeError::Short {
            have: bytes.len(),
            need: size_of::<FunctionEvent>() + values * slot,
        });
    };
    Ok(FunctionRecord { head, bytes: Plaintext::of(captured), layout: Layout::Slots(slot) })
}

pub(super) fn stack(bytes: &[u8]) -> Result<Stack<'_>, DecodeError> {
    let (head, _) = prefix::<FunctionStack>(bytes)?;
    let frames = usize::try_from(head.count).ok().and_then(|count| head.frames.get(..count));
    frames.map(|frames| Stack { head, frames }).ok_or(DecodeError::Frames(head.count))
}
