//! The heads of frames, and where frames begin in a stream that was joined in the middle.

use super::extensions::Agreement;
use crate::event::Role;
use crate::protocol::{Desync, Input};

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// The bit that says that a message is compressed.
const RSV1: u8 = 0x40;
const RSV2_AND_3: u8 = 0x30;
/// The most bytes that a control frame carries.
const MAX_CONTROL: u64 = 125;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WebSocketFrameHead {
    /// Whether it ends its message.
    pub(super) is_final: bool,
    /// The bits for extensions, where they are in the first byte.
    reserved: u8,
    pub(super) opcode: u8,
    pub(super) mask: Option<[u8; 4]>,
    /// The length of the payload.
    pub(super) length: u64,
    /// The length of the head itself.
    pub(super) size: usize,
    /// Whether the length is written in as few bytes as possible.
    is_minimal: bool,
}

impl WebSocketFrameHead {
    /// Parses a head. None if it is not complete.
    pub(super) fn parse(data: &[u8]) -> Result<Option<Self>, Desync> {
        let &[first, second, ref rest @ ..] = data else { return Ok(None) };
        let (length, width) = match second & 0x7f {
            126 => (rest.first_chunk().map(|bytes| u16::from_be_bytes(*bytes).into()), 2),
            127 => (rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)), 8),
            length => (Some(length.into()), 0),
        };
        let Some(length) = length else { return Ok(None) };
        if length > i64::MAX.unsigned_abs() {
            return Err(Desync("a length of more than 63 bits"));
        }
        let mut size = 2 + width;
        let mut mask = None;
        if second & 0x80 != 0 {
            let Some(key) = rest.get(width..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            mask = Some(*key);
            size += key.len();
        }
        let is_minimal = match width {
            0 => true,
            2 => length > MAX_CONTROL,
            _ => length > u16::MAX.into(),
        };
        Ok(Some(Self {
            is_final: first & 0x80 != 0,
            reserved: first & 0x70,
            opcode: first & 0xf,
            mask,
            length,
            size,
            is_minimal,
        }))
    }

    /// Whether it is the head of a control frame, which may be in between the frames of a message.
    pub(super) fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// Whether an extension has changed the payload.
    pub(super) fn is_extended(&self) -> bool {
        self.reserved != 0
    }

    /// Whether the payload is compressed by permessage-deflate.
    pub(super) fn is_deflated(&self, agreement: Agreement) -> bool {
        self.reserved == RSV1 && agreement.may_deflate
    }

    /// Checks what no receiver accepts, because it would not understand the frame.
    pub(super) fn check(&self, agreement: Agreement) -> Result<(), Desync> {
        if !matches!(self.opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(Desync("a reserved opcode"));
        }
        if self.is_control() && (self.length > MAX_CONTROL || !self.is_final) {
            return Err(Desync("a control frame that is too long, or not the only one"));
        }
        let may_deflate = agreement.may_deflate && matches!(self.opcode, TEXT | BINARY);
        let is_expected = self.reserved & RSV2_AND_3 == 0 && (self.reserved & RSV1 == 0 || may_deflate);
        if is_expected || agreement.has_others { Ok(()) } else { Err(Desync("bits of no extension")) }
    }

    /// Whether a careful sender would have written it so. Most receivers accept more.
    pub(super) fn is_regular(&self, sender: Role, agreement: Agreement) -> bool {
        let is_masked = self.mask.is_some() == (sender == Role::Client);
        is_masked && self.is_minimal && self.check(agreement).is_ok()
    }
}

/// Undoes the masking of bytes of which the first one is number `index` of its frame.
pub(super) fn unmask(data: &mut [u8], mask: [u8; 4], index: u64) {
    let skipped = usize::try_from(index % 4).unwrap_or(0);
    data.iter_mut().zip(mask.iter().cycle().skip(skipped)).for_each(|(byte, key)| *byte ^= key);
}

/// How certain it is that frames begin at a place: about the logarithm of how improbable it would be
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameEvidence {
    pub(super) bits: u32,
    pub(super) frames: u32,
}

/// What a head in the right form is worth: an opcode and bits that may be, and a mask as the role demands it.
const HEAD_BITS: u32 = 5;
/// What it is worth that a call ends where a frame does.
const ALIGNED_BITS: u32 = 8;
/// Frames have to begin within this many bytes of a call, and end within as many.
pub(super) const MAX_SEARCH: usize = 64 * 1024;
/// The bytes of a payload that are looked at.
const MAX_PLAUSIBLE: usize = 125;
/// The most frames that are looked at.
const MAX_CHAIN: u32 = 16;

/// How certain it is that frames of `sender` begin at `start`. None if they do not. What follows after there
/// is `enough` evidence does not matter.
pub(super) fn chain(
    input: Input<'_>,
    start: usize,
    sender: Role,
    agreement: Agreement,
    enough: u32,
) -> Option<FrameEvidence> {
    let mut evidence = FrameEvidence { bits: 0, frames: 0 };
    let mut rest = input.data.get(start..)?;
    rest = rest.get(..MAX_SEARCH).unwrap_or(rest);
    let end = start + rest.len();
    while evidence.frames < MAX_CHAIN
        && evidence.bits < enough
        && let Some(head) = WebSocketFrameHead::parse(rest).ok()?
    {
        if !head.is_regular(sender, agreement) {
            return None;
        }
        let size = usize::try_from(head.length).ok().and_then(|length| length.checked_add(head.size));
        let Some((frame, after)) = size.and_then(|size| rest.split_at_checked(size)) else { break };
        if !is_plausible(&head, frame) {
            return None;
        }
        rest = after;
        evidence.frames += 1;
        evidence.bits += HEAD_BITS;
        if starts_call(input, end - rest.len()) {
            evidence.bits += ALIGNED_BITS;
        }
    }
    Some(evidence)
}

/// Whether a payload may be what its head says: text is UTF-8, and a reason for closing has a code.
fn is_plausible(head: &WebSocketFrameHead, frame: &[u8]) -> bool {
    let payload = frame.get(head.size..).unwrap_or_default();
    let mut payload = payload.get(..MAX_PLAUSIBLE).unwrap_or(payload).to_vec();
    if let Some(mask) = head.mask {
        unmask(&mut payload, mask, 0);
    }
    let is_text = |text: &[u8]| match str::from_utf8(text) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && text.len() == MAX_PLAUSIBLE,
    };
    match head.opcode {
        TEXT if head.is_final && !head.is_extended() => is_text(&payload),
        CLOSE => match payload.as_slice() {
            [] => true,
            [high, low, reason @ ..] => {
                matches!(u16::from_be_bytes([*high, *low]), 1000..5000) && is_text(reason)
            }
            _ => false,
        },
        _ => true,
    }
}

/// Whether the byte at `index` is the first of its call.
pub(super) fn starts_call(input: Input<'_>, index: usize) -> bool {
    let Some(offset) = input.offset.checked_add(index as u64) else { return false };
    let mark = input.marks.binary_search_by_key(&offset, |mark| mark.offset).ok();
    index < input.data.len() && mark.and_then(|at| input.marks.get(at)).is_some_and(|mark| mark.starts_call)
}
