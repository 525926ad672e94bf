//! HTTP/2 (RFC 9113): a connection's bytes → frames → the requests and responses of its streams.
//!
//! Owns the position in the frames of each direction. A connection can be joined in the middle. As the
//! lengths of frames are known, a gap within one is exact: it concerns only the stream of that frame, and if
//! it is in a header list, also the entries that later lists of the direction refer to. After a gap that
//! extends beyond a frame, frames are searched for, and every open stream of the direction may lack
//! something.

mod chain;
mod detect;
mod fields;
mod frame;
mod half;
mod hpack;
mod streams;
mod tunnel;

use jiff::Timestamp;

use super::{Decoder, Desync, Gap, Hints, Input, Messages, Protocol, Step, http};
use crate::event::{Direction, Role};
use chain::ChainEvidence;
use frame::{FrameHead, FrameType, HEAD, PREFACE};
use half::FieldBlock;
use streams::{Ends, Streams};
use tunnel::DataPart;

/// HTTP/2, and what is in its streams: gRPC, WebSocket.
pub(super) const HTTP2: Protocol = Protocol {
    name: "http2",
    help: "HTTP/2 and gRPC",
    ports: &[443, 8443, 50051],
    has_exchanges: true,
    fields: http::FIELDS,
    overview: http::overview,
    detect: detect::detect,
    open: |hints| Box::new(Http2Decoder::new(hints)),
};

/// The longest frame that waits until it is complete. Bodies do not wait, and nobody sends longer frames of
/// the other types: 16 KiB is the limit of most peers.
const MAX_BUFFERED: usize = 64 * 1024;
/// The longest encoded header list. Common servers accept 8 to 64 KiB. What is longer is not decoded.
const MAX_BLOCK: usize = 256 * 1024;

/// Decodes a connection.
#[derive(Debug)]
struct Http2Decoder {
    /// The role of the process.
    role: Option<Role>,
    /// The direction of the client's bytes. None as long as it is unknown.
    client: Option<Direction>,
    transmit: Side,
    receive: Side,
    streams: Streams,
}

/// One direction.
#[derive(Debug)]
struct Side {
    position: Position,
    hpack: hpack::HpackDecoder,
    /// The header list whose frames are being read. Frames of others may not be in between.
    block: Option<OpenBlock>,
}

/// What comes next in a direction.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// The client's preface.
    Preface,
    /// The head of a frame.
    Head,
    /// The payload of a frame.
    Payload(Payload),
    /// The body and the padding of a DATA frame.
    Data(Data),
    /// Frames are searched for.
    Lost,
}

/// The payload of a frame of any type but DATA.
#[derive(Clone, Copy, Debug)]
struct Payload {
    head: FrameHead,
    /// When the head began.
    first: Timestamp,
    /// How much of it is to come.
    left: usize,
    /// How many bytes of it are missing.
    missing: u64,
    /// Whether it is not used: because of these, or because it is too long.
    is_lost: bool,
}

/// What is to come of a DATA frame.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    ends_stream: bool,
    /// When the head began.
    first: Timestamp,
    body: usize,
    padding: usize,
    /// Whether nothing of it came yet.
    is_first: bool,
}

/// A header list whose frames are being read.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    /// The stream that a PUSH_PROMISE frame promises. None if it is another frame, 0 if it was lost.
    promised: Option<u32>,
    bytes: Vec<u8>,
    is_lost: bool,
    block: FieldBlock,
}

/// What a step did.
enum Progress {
    Taken(usize),
    Skipped(usize),
    More,
}

impl Side {
    fn new(position: Position, hpack: hpack::HpackDecoder) -> Self {
        Self { position, hpack, block: None }
    }
}

impl Http2Decoder {
    fn new(hints: &Hints) -> Self {
        let client = hints.role.map(|role| match role {
            Role::Client => Direction::Transmit,
            Role::Server => Direction::Receive,
        });
        let side = |direction| {
            let position = match client {
                Some(client) if hints.from_start && client == direction => Position::Preface,
                Some(_) if hints.from_start => Position::Head,
                _ => Position::Lost,
            };
            let is_joined = !hints.from_start;
            Side::new(
                position,
                if is_joined { hpack::HpackDecoder::joined() } else { hpack::HpackDecoder::from_start() },
            )
        };
        Self {
            role: hints.role,
            client,
            transmit: side(Direction::Transmit),
            receive: side(Direction::Receive),
            streams: Streams::new(hints),
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Transmit => &mut self.transmit,
            Direction::Receive => &mut self.receive,
        }
    }

    /// The role of the end that sends in a direction.
    fn sender(&self, from: Direction) -> Option<Role> {
        self.client.map(|client| if client == from { Role::Client } else { Role::Server })
    }

    /// Sets what frames, or the socket, show.
    fn set_client(&mut self, client: Direction) {
        self.client = Some(client);
        self.role.get_or_insert(match client {
            Direction::Transmit => Role::Client,
            Direction::Receive => Role::Server,
        });
    }

    fn ends(&self) -> Option<Ends> {
        Some(Ends { client: self.client?, role: self.role, protocol: HTTP2.name })
    }

    fn step(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Progress, Desync> {
        match self.side(from).position {
            Position::Preface => self.preface(from, input),
            Position::Head => self.head(from, input, out),
            Position::Payload(payload) => Ok(self.payload(from, payload, input, out)),
            Position::Data(data) => Ok(self.body(from, data, input, out)),
            Position::Lost => Ok(self.search(from, input)),
        }
    }

    fn preface(&mut self, from: Direction, input: Input<'_>) -> Result<Progress, Desync> {
        if input.data.starts_with(PREFACE) {
            self.side(from).position = Position::Head;
            return Ok(Progress::Taken(PREFACE.len()));
        }
        if PREFACE.starts_with(input.data) { Ok(Progress::More) } else { Err(Desync("no preface")) }
    }

    /// Searches for frames.
    fn search(&mut self, from: Direction, input: Input<'_>) -> Progress {
        let sender = self.sender(from);
        match chain::search(input, sender) {
            None => Progress::Skipped(input.data.len()),
            Some((start @ 1.., _)) => Progress::Skipped(start),
            Some((_, ChainEvidence::Preface)) => {
                self.set_client(from);
                *self.side(from) = Side::new(Position::Head, hpack::HpackDecoder::from_start());
                Progress::Taken(PREFACE.len())
            }
            Some((_, ChainEvidence::Frames(Some(role)))) => {
                let is_client = (role == Role::Client) == (from == Direction::Transmit);
                self.set_client(if is_client { Direction::Transmit } else { Direction::Receive });
                self.side(from).position = Position::Head;
                Progress::Taken(0)
            }
            // The role will be clear from the other direction.
            Some(_) => Progress::More,
        }
    }

    fn head(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Progress, Desync> {
        let Some(head) = FrameHead::parse(input.data) else { return Ok(Progress::More) };
        let (Some(sender), Some(ends)) = (self.sender(from), self.ends()) else {
            return Err(Desync("the roles are unknown"));
        };
        self.check(from, sender, &head)?;
        let first = input.time(0).unwrap_or_default();
        self.streams.come(&ends, sender, first, out);
        if head.kind != FrameType::Data {
            let payload = Payload { head, first, left: head.payload(), missing: 0, is_lost: false };
            self.side(from).position = Position::Payload(payload);
            if head.length == 0 {
                let last = input.time(HEAD - 1).unwrap_or(first);
                self.end_payload(from, payload, &[], last, out);
            }
            return Ok(Progress::Taken(HEAD));
        }
        let (overhead, padding) = if head.has(frame::PADDED) {
            let Some(padding) = input.data.get(HEAD) else { return Ok(Progress::More) };
            (1, usize::from(*padding))
        } else {
            (0, 0)
        };
        let body =
            head.payload().checked_sub(overhead + padding).ok_or(Desync("more padding than payload"))?;
        let taken = HEAD + overhead;
        let last = input.time(taken - 1).unwrap_or(first);
        self.streams.overhead(&ends, sender, head.stream, taken, last, out);
        let ends_stream = head.has(frame::END_STREAM);
        self.rest_of_data(
            from,
            Data { stream: head.stream, ends_stream, first, body, padding, is_first: true },
            out,
        );
        Ok(Progress::Taken(taken))
    }

    /// Checks whether a frame may come now.
    fn check(&self, from: Direction, sender: Role, head: &FrameHead) -> Result<(), Desync> {
        let side = match from {
            Direction::Transmit => &self.transmit,
            Direction::Receive => &self.receive,
        };
        if !head.is_lawful() {
            return Err(Desync("an unlawful frame"));
        }
        if let Some(block) = &side.block
            && (head.kind != FrameType::Continuation || head.stream != block.stream)
        {
            return Err(Desync("a frame within a header list"));
        }
        let is_of_client = sender == Role::Client;
        match head.kind {
            FrameType::Headers | FrameType::Data if is_of_client && head.stream.is_multiple_of(2) => {
                Err(Desync("a client's stream with an even id"))
            }
            FrameType::PushPromise if is_of_client => Err(Desync("a promise of a client")),
            _ => Ok(()),
        }
    }

    /// Sets what is to come of a DATA frame, which may be nothing.
    fn rest_of_data(&mut self, from: Direction, data: Data, out: &mut Messages) {
        if data.body + data.padding > 0 {
            self.side(from).position = Position::Data(data);
            return;
        }
        self.side(from).position = Position::Head;
        if let (true, Some(sender), Some(ends)) = (data.ends_stream, self.sender(from), self.ends()) {
            self.streams.end_half(&ends, sender, data.stream, out);
        }
    }

    fn body(&mut self, from: Direction, data: Data, input: Input<'_>, out: &mut Messages) -> Progress {
        let (Some(sender), Some(ends)) = (self.sender(from), self.ends()) else { return Progress::More };
        let (body, rest) = input.data.split_at(input.data.len().min(data.body));
        let mut starts_frame = data.is_first;
        let mut left = data.body;
        for (data_of_call, time) in input.calls(body.len()) {
            left -= data_of_call.len();
            let part = DataPart { data: data_of_call, time, starts_frame, ends_frame: left == 0 };
            self.streams.data(&ends, sender, data.stream, part, out);
            starts_frame = false;
        }
        let padding = rest.len().min(data.padding);
        if padding > 0 {
            let time = input.time(body.len() + padding - 1).unwrap_or(data.first);
            self.streams.overhead(&ends, sender, data.stream, padding, time, out);
        }
        let left =
            Data { body: data.body - body.len(), padding: data.padding - padding, is_first: false, ..data };
        self.rest_of_data(from, left, out);
        Progress::Taken(body.len() + padding)
    }

    fn payload(
        &mut self,
        from: Direction,
        payload: Payload,
        input: Input<'_>,
        out: &mut Messages,
    ) -> Progress {
        let Payload { head, left, .. } = payload;
        let is_used = matches!(
            head.kind,
            FrameType::Headers
                | FrameType::PushPromise
                | FrameType::Continuation
                | FrameType::Settings
                | FrameType::Reset
                | FrameType::GoAway
        );
        let is_kept = is_used && !payload.is_lost && left <= MAX_BUFFERED;
        if is_kept && input.data.len() < left {
            return Progress::More;
        }
        let taken = left.min(input.data.len());
        let last = taken.checked_sub(1).and_then(|last| input.time(last)).unwrap_or(payload.first);
        let next = Payload { left: left - taken, is_lost: !is_kept, ..payload };
        if next.left > 0 {
            self.side(from).position = Position::Payload(next);
        } else {
            let data = if is_kept { input.data.get(..taken).unwrap_or_default() } else { &[] };
            self.end_payload(from, next, data, last, out);
        }
        Progress::Taken(taken)
    }

    /// Handles a frame whose payload has passed. `data` is the payload, empty if it is lost.
    fn end_payload(
        &mut self,
        from: Direction,
        frame: Payload,
        data: &[u8],
        last: Timestamp,
        out: &mut Messages,
    ) {
        self.side(from).position = Position::Head;
        let (Some(sender), Some(ends)) = (self.sender(from), self.ends()) else { return };
        let Payload { head, is_lost, .. } = frame;
        match head.kind {
            FrameType::Headers | FrameType::PushPromise => self.begin_block(from, frame, data, last, out),
            FrameType::Continuation => self.continue_block(from, frame, data, last, out),
            FrameType::Settings if !head.has(frame::ACK) => {
                let other = match from {
                    Direction::Transmit => &mut self.receive,
                    Direction::Receive => &mut self.transmit,
                };
                if is_lost {
                    other.hpack.allow_size(usize::MAX);
                }
                for (_, size) in frame::settings(data).filter(|(name, _)| *name == frame::HEADER_TABLE_SIZE) {
                    other.hpack.allow_size(usize::try_from(size).unwrap_or(usize::MAX));
                }
            }
            FrameType::Reset => {
                let code = frame::number(data).filter(|_| !is_lost);
                self.streams.reset(&ends, sender, head.stream, code, last, out);
            }
            FrameType::GoAway if !is_lost => {
                let stream = frame::number(data).unwrap_or(u32::MAX) & 0x7fff_ffff;
                let code = data.get(4..).and_then(frame::number);
                self.streams.go_away(&ends, sender, stream, code, last, out);
            }
            _ => {}
        }
    }

    fn begin_block(
        &mut self,
        from: Direction,
        frame: Payload,
        data: &[u8],
        last: Timestamp,
        out: &mut Messages,
    ) {
        let Payload { head, first, missing, is_lost, .. } = frame;
        let fragment = frame::block_fragment(&head, data).filter(|_| !is_lost);
        let promised = (head.kind == FrameType::PushPromise)
            .then(|| frame::promised_stream(&head, data).filter(|_| !is_lost).unwrap_or_default());
        let length = (HEAD as u64).saturating_add(head.length.into());
        let ends_stream = head.kind == FrameType::Headers && head.has(frame::END_STREAM);
        self.side(from).block = Some(OpenBlock {
            stream: head.stream,
            promised,
            bytes: fragment.unwrap_or_default().to_vec(),
            is_lost: fragment.is_none(),
            // What did not wait although nothing of it is missing was too long.
            block: FieldBlock {
                list: None,
                ends_stream,
                first,
                last,
                length,
                missing,
                is_too_long: is_lost && missing == 0,
            },
        });
        if head.has(frame::END_HEADERS) {
            self.end_block(from, out);
        }
    }

    fn continue_block(
        &mut self,
        from: Direction,
        frame: Payload,
        data: &[u8],
        last: Timestamp,
        out: &mut Messages,
    ) {
        let Payload { head, missing, is_lost, .. } = frame;
        let side = self.side(from);
        let Some(open) = &mut side.block else {
            // The beginning of the list was missed.
            side.hpack.missed_lists();
            return;
        };
        let length = (HEAD as u64).saturating_add(head.length.into());
        open.block.length = open.block.length.saturating_add(length);
        open.block.missing = open.block.missing.saturating_add(missing);
        open.block.last = last;
        let is_too_long = open.bytes.len().saturating_add(data.len()) > MAX_BLOCK;
        open.block.is_too_long |= is_too_long || (is_lost && missing == 0);
        open.is_lost |= is_lost || is_too_long;
        if open.is_lost {
            open.bytes = Vec::new();
        } else {
            open.bytes.extend_from_slice(data);
        }
        if head.has(frame::END_HEADERS) {
            self.end_block(from, out);
        }
    }

    /// Handles a header list all of whose frames have passed.
    fn end_block(&mut self, from: Direction, out: &mut Messages) {
        let (Some(sender), Some(ends)) = (self.sender(from), self.ends()) else { return };
        let side = self.side(from);
        let Some(OpenBlock { stream, promised, bytes, is_lost, mut block }) = side.block.take() else {
            return;
        };
        let mut is_malformed = false;
        if is_lost {
            side.hpack.missed_lists();
        } else {
            block.list = side.hpack.decode(&bytes).ok();
            is_malformed = block.list.is_none();
        }
        match promised {
            Some(promised) => self.streams.promise(&ends, promised, &block, out),
            None => self.streams.block(&ends, sender, stream, &block, out),
        }
        if is_malformed {
            // What was taken for frames was something else.
            self.lose(from, out);
        }
    }

    /// Handles that the position in the frames is unknown.
    fn lose(&mut self, from: Direction, out: &mut Messages) {
        if let Some(open) = &mut self.side(from).block {
            open.is_lost = true;
            self.end_block(from, out);
        }
        let sender = self.sender(from);
        let side = self.side(from);
        side.position = Position::Lost;
        side.hpack.missed_lists();
        match (sender, self.ends()) {
            (Some(sender), Some(ends)) => self.streams.gap(&ends, sender, out),
            _ => self.streams.miss_frames(),
        }
    }
}

impl Decoder for Http2Decoder {
    fn learn(&mut self, hints: &Hints) {
        if let (None, Some(role)) = (self.client, hints.role) {
            self.set_client(match role {
                Role::Client => Direction::Transmit,
                Role::Server => Direction::Receive,
            });
        }
    }

    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let mut taken = 0_usize;
        while let Some(rest) = input.data.get(taken..).filter(|rest| !rest.is_empty()) {
            let rest = Input { data: rest, offset: input.offset.saturating_add(taken as u64), ..input };
            match self.step(from, rest, out) {
                Ok(Progress::Taken(bytes)) => taken += bytes,
                Ok(Progress::Skipped(bytes)) if taken == 0 => return Ok(Step::Skipped(bytes)),
                Err(desync) if taken == 0 => return Err(desync),
                // The next call comes to the same result.
                Ok(Progress::Skipped(_) | Progress::More) | Err(_) => break,
            }
        }
        Ok(if taken > 0 { Step::Taken(taken) } else { Step::More })
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        let length = usize::try_from(gap.length).unwrap_or(usize::MAX);
        match self.side(from).position {
            Position::Data(data) => {
                let rest = data.body + data.padding;
                let missing = length.min(data.body);
                if let (Some(sender), Some(ends)) = (self.sender(from), self.ends()) {
                    let (stream, first) = (data.stream, data.first);
                    self.streams.data_gap(&ends, sender, stream, missing as u64, first, out);
                }
                let padding = data.padding.saturating_sub(length - missing);
                self.rest_of_data(
                    from,
                    Data { body: data.body - missing, padding, is_first: false, ..data },
                    out,
                );
                if length > rest {
                    self.lose(from, out);
                }
            }
            Position::Payload(payload) => {
                let missing = length.min(payload.left);
                let left = payload.left - missing;
                let all_missing = payload.missing.saturating_add(missing as u64);
                let is_lost = payload.is_lost || missing > 0;
                let next = Payload { left, missing: all_missing, is_lost, ..payload };
                if left > 0 {
                    self.side(from).position = Position::Payload(next);
                } else {
                    self.end_payload(from, next, &[], payload.first, out);
                }
                if length > missing {
                    self.lose(from, out);
                }
            }
            Position::Preface | Position::Head | Position::Lost => self.lose(from, out),
        }
    }

    fn end(&mut self, out: &mut Messages) {
        if let Some(ends) = self.ends() {
            self.streams.end(&ends, out);
        }
    }

    fn role(&self) -> Option<Role> {
        self.role
    }

    fn settle(&mut self, before: Timestamp, out: &mut Messages) {
        if let Some(ends) = self.ends() {
            self.streams.settle(&ends, before, out);
        }
    }

    fn under_way(&self, out: &mut Messages) {
        if let Some(ends) = self.ends() {
            self.streams.under_way(&ends, out);
        }
    }

    fn held_bytes(&self) -> usize {
        let block = |side: &Side| side.block.as_ref().map_or(0, |block| block.bytes.len());
        let side = |side: &Side| side.hpack.held_bytes().saturating_add(block(side));
        self.streams.held_bytes().saturating_add(side(&self.transmit)).saturating_add(side(&self.receive))
    }
}

#[cfg(test)]
mod tests;
