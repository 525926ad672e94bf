//! Where frames begin, in bytes whose beginning was not seen.
//!
//! A frame has no mark, so several frames that follow each other are needed as evidence. Each must be lawful
//! in every detail that can be checked: also flags, which a peer would ignore, and what settings, errors and
//! header lists contain. Chains are only searched for where calls begin. As most programs write whole frames,
//! a frame that begins where another call does is further evidence.

use super::frame::{self, FrameHead, FrameType, HEAD, PREFACE};
use super::hpack;
use crate::event::Role;
use crate::protocol::Input;

/// The evidence that is needed. Frames of a fixed length count double, because at least 60 of their bits are
/// checked, and frames at the beginning of a call count one more. A header list that begins as one of the
/// sender's role must is enough. The others count once.
const ENOUGH: u32 = 4;
/// The most that the ids of streams within a chain may be apart. Those that are open at once were opened soon
/// after each other.
const MAX_DISTANCE: u32 = 1 << 16;
/// The longest frame of a chain: what everyone must accept, and what most senders use at most.
const MAX_FRAME: u32 = 16_384;
/// The most frames in which the role of the sender is searched for. Most calls begin with a frame that shows
/// it.
const MAX_FRAMES: u32 = 256;

/// What bytes that may begin a chain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainEvidence {
    /// Frames begin here. If they show it, also the role of their sender.
    Frames(Option<Role>),
    /// A client's connection begins here.
    Preface,
    /// More bytes are needed to decide.
    NeedMore,
    /// No frame begins here.
    None,
}

/// The first index where a call begins that may begin a chain, and what it is. None if there is no such
/// index.
pub(super) fn search(input: Input<'_>, sender: Option<Role>) -> Option<(usize, ChainEvidence)> {
    let mut starts = input.call_starts();
    starts.find_map(|start| match at(input, start, sender) {
        ChainEvidence::None => None,
        evidence => Some((start, evidence)),
    })
}

/// What begins at `start`.
fn at(input: Input<'_>, start: usize, sender: Option<Role>) -> ChainEvidence {
    let data = input.data.get(start..).unwrap_or_default();
    if sender != Some(Role::Server) {
        if data.starts_with(PREFACE) {
            return ChainEvidence::Preface;
        }
        // The preface is no frame: its length would be too large.
        if PREFACE.starts_with(data) {
            return ChainEvidence::NeedMore;
        }
    }
    let mut chain = Chain { found: 0, role: sender, streams: None, ended: Vec::new() };
    let (mut rest, mut index) = (data, start);
    let mut frames = 0;
    while chain.found < ENOUGH || (chain.role.is_none() && frames < MAX_FRAMES) {
        let is_enough = chain.found >= ENOUGH;
        let added = FrameHead::parse(rest).map_or((Frame::NeedMore, 0), |head| {
            (chain.add(&head, rest.get(HEAD..).unwrap_or_default()), HEAD + head.payload())
        });
        let length = match added {
            (Frame::Lawful, length) => length,
            // Only the role was wanted of it.
            (Frame::NeedMore | Frame::Unlawful, _) if is_enough => break,
            (Frame::NeedMore, _) => return ChainEvidence::NeedMore,
            (Frame::Unlawful, _) => return ChainEvidence::None,
        };
        if index > start && input.call_starts().any(|start| start == index) {
            chain.found += 1;
        }
        (index, frames) = (index + length, frames + 1);
        rest = match rest.get(length..) {
            Some(next) => next,
            None if chain.found < ENOUGH => return ChainEvidence::NeedMore,
            None => break,
        };
    }
    ChainEvidence::Frames(chain.role)
}

/// Frames that follow each other.
struct Chain {
    /// The evidence so far.
    found: u32,
    /// The role of the sender, if it is known or a frame shows it.
    role: Option<Role>,
    /// The lowest and the highest id of a stream.
    streams: Option<(u32, u32)>,
    /// The streams that have ended.
    ended: Vec<u32>,
}

enum Frame {
    Lawful,
    Unlawful,
    NeedMore,
}

impl Chain {
    /// Adds a frame, whose payload begins with `data`, if it is lawful.
    fn add(&mut self, head: &FrameHead, data: &[u8]) -> Frame {
        let is_plausible = head.is_lawful()
            && head.length <= MAX_FRAME
            && !head.reserved
            && head.flags & !head.defined_flags() == 0
            && !matches!(head.kind, FrameType::Other(_))
            && self.add_stream(head);
        if !is_plausible {
            return Frame::Unlawful;
        }
        match head.kind {
            FrameType::Data | FrameType::Continuation => {
                // Nobody sends an empty frame without a reason.
                let is_empty = head.length == 0 && head.flags & !frame::PADDED == 0;
                return if is_empty { Frame::Unlawful } else { self.found(1) };
            }
            _ => {}
        }
        let Some(payload) = data.get(..head.payload()) else { return Frame::NeedMore };
        let value = frame::number(payload).unwrap_or_default();
        let is_lawful = match head.kind {
            FrameType::Headers => return self.header_list(head, payload),
            FrameType::PushPromise => {
                let promised = frame::promised_stream(head, payload).unwrap_or_default();
                if self.role == Some(Role::Client) || promised == 0 || promised % 2 == 1 {
                    return Frame::Unlawful;
                }
                self.role = Some(Role::Server);
                return self.found(1);
            }
            FrameType::Settings => frame::settings(payload).all(|(name, _)| (1..=0x10).contains(&name)),
            FrameType::Reset => value < frame::ERROR_CODES,
            FrameType::WindowUpdate => value != 0 && value >> 31 == 0,
            FrameType::GoAway => value >> 31 == 0,
            // A stream cannot depend on itself.
            FrameType::Priority => value & 0x7fff_ffff != head.stream,
            _ => true,
        };
        if is_lawful { self.found(2) } else { Frame::Unlawful }
    }

    fn found(&mut self, evidence: u32) -> Frame {
        self.found += evidence;
        Frame::Lawful
    }

    /// Whether a frame can belong to its stream.
    fn add_stream(&mut self, head: &FrameHead) -> bool {
        if head.stream == 0 {
            return true;
        }
        let is_of_message =
            matches!(head.kind, FrameType::Data | FrameType::Headers | FrameType::PushPromise);
        // Promised streams, whose ids are even, are rare.
        if is_of_message && (head.stream.is_multiple_of(2) || self.ended.contains(&head.stream)) {
            return false;
        }
        if is_of_message && head.kind != FrameType::PushPromise && head.has(frame::END_STREAM) {
            self.ended.push(head.stream);
        }
        let (low, high) = self.streams.unwrap_or((head.stream, head.stream));
        let (low, high) = (low.min(head.stream), high.max(head.stream));
        self.streams = Some((low, high));
        high - low <= MAX_DISTANCE
    }

    fn header_list(&mut self, head: &FrameHead, payload: &[u8]) -> Frame {
        let Some(fragment) = frame::block_fragment(head, payload) else { return Frame::Unlawful };
        if !head.has(frame::END_HEADERS) {
            return self.found(1);
        }
        let Ok(list) = hpack::HpackDecoder::joined().decode(fragment) else { return Frame::Unlawful };
        let shown = list.fields.iter().find_map(|field| match field.name.as_deref() {
            Some(":status") => Some(Role::Server),
            Some(":method" | ":path" | ":scheme" | ":authority") => Some(Role::Client),
            _ => None,
        });
        match (shown, self.role) {
            _ if list.fields.is_empty() => Frame::Unlawful,
            (Some(shown), Some(sender)) if shown != sender => Frame::Unlawful,
            (Some(shown), _) => {
                self.role = Some(shown);
                self.found(ENOUGH)
            }
            (None, _) => self.found(1),
        }
    }
}
