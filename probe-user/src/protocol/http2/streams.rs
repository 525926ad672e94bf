//! The streams of a connection. Each carries a request and its response.
//!
//! The two directions of a stream are independent: the records of two threads may be out of order, so that a
//! response comes before its request.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::frame;
use super::half::{FieldBlock, Half};
use super::tunnel::{DataPart, Tunnel};
use crate::event::{Direction, FieldValue, Role};
use crate::protocol::{Hints, Messages, RpcCall};

/// The most streams of a connection. Servers allow 100 to 250 at once as a rule. Beyond this, the oldest one
/// is reported as it is.
pub(super) const MAX_STREAMS: usize = 1024;
/// The most bytes that the incomplete messages of a connection take. Beyond this, the oldest one is reported
/// as it is.
pub(super) const MAX_HELD: usize = 16 << 20;
/// The number of closed streams that are remembered, because late frames of them are to be ignored: as many
/// streams as a peer can close within a round trip.
const MAX_CLOSED: usize = 256;
/// The number of streams that are kept although they were reset, until the other direction has come as far.
const MAX_RESETS: usize = 256;

/// The directions of a connection by role, and what else every stream needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The direction of the client's bytes.
    pub client: Direction,
    /// The role of the process.
    pub role: Option<Role>,
    /// The name of the protocol.
    pub protocol: &'static str,
}

impl Ends {
    fn direction(&self, sender: Role) -> Direction {
        match (sender, self.client) {
            (Role::Client, client) => client,
            (Role::Server, Direction::Transmit) => Direction::Receive,
            (Role::Server, Direction::Receive) => Direction::Transmit,
        }
    }
}

/// A direction of a stream.
#[derive(Debug, Default)]
enum Side {
    /// Nothing came yet.
    #[default]
    Expected,
    Open(Box<Half>),
    /// It has become a tunnel.
    Tunnel,
    Ended,
}

#[derive(Debug, Default)]
struct Stream {
    request: Side,
    response: Side,
    tunnel: Option<Box<Tunnel>>,
    /// The call that the request is.
    call: Option<RpcCall>,
    /// How it was broken off, as long as what the other end had sent before may still come.
    reset: Option<Reset>,
}

/// How a stream was broken off.
#[derive(Clone, Copy, Debug)]
struct Reset {
    sender: Role,
    /// None if it was lost.
    code: Option<u32>,
    time: Timestamp,
}

impl Stream {
    fn side(&mut self, sender: Role) -> &mut Side {
        match sender {
            Role::Client => &mut self.request,
            Role::Server => &mut self.response,
        }
    }

    fn held_bytes(&self) -> usize {
        let held = |side: &Side| match side {
            Side::Open(half) => half.held_bytes(),
            Side::Expected | Side::Tunnel | Side::Ended => 0,
        };
        let tunnel = self.tunnel.as_ref().map_or(0, |tunnel| tunnel.held_bytes());
        let call = self.call.as_ref().map_or(0, |call| call.method.len());
        size_of::<(u32, Self)>() + call + held(&self.request) + held(&self.response) + tunnel
    }
}

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// All streams that are not closed.
#[derive(Debug)]
pub(super) struct Streams {
    /// What is known about the connection.
    hints: Hints,
    /// The request of the previous protocol that the first stream answers.
    unanswered: Option<u64>,
    /// By id, and thus the oldest one first.
    open: BTreeMap<u32, Stream>,
    held: usize,
    /// The id of the first request, 0 before it.
    first_request: u32,
    /// The highest id of a request.
    highest_request: u32,
    /// Whether all frames of the connection were seen so far.
    is_gapless: bool,
    /// The ids of the streams that were closed last.
    closed: VecDeque<u32>,
    /// The ids of the streams that were reset and are kept, the oldest reset first.
    resets: VecDeque<u32>,
}

impl Streams {
    pub(super) fn new(hints: &Hints) -> Self {
        Self {
            // Tunnels answer no request but their own.
            hints: Hints { unanswered: None, ..hints.clone() },
            unanswered: hints.unanswered,
            open: BTreeMap::new(),
            held: 0,
            first_request: 0,
            highest_request: 0,
            is_gapless: hints.from_start,
            closed: VecDeque::new(),
            resets: VecDeque::new(),
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held
    }

    /// Handles a header list.
    pub(super) fn block(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        block: &FieldBlock,
        out: &mut Messages,
    ) {
        self.with(ends, sender, id, block.first, out, |half, out| half.block(block, out));
        if sender == Role::Client {
            self.highest_request = self.highest_request.max(id);
            self.first_request = if self.first_request == 0 { id } else { self.first_request };
        }
        self.open_tunnel(ends, id, out);
        if block.ends_stream {
            self.end_half(ends, sender, id, out);
        }
    }

    /// Handles the request that a server promises to answer.
    pub(super) fn promise(&mut self, ends: &Ends, promised: u32, block: &FieldBlock, out: &mut Messages) {
        if promised == 0 || promised % 2 == 1 || self.open.contains_key(&promised) {
            return;
        }
        // The server sends it on behalf of the client.
        let direction = ends.direction(Role::Server);
        let mut half = Half::new(ends.protocol, Role::Client, direction, promised, block.first);
        half.block(block, out);
        half.end(ends.role, out);
        let stream = Stream { request: Side::Ended, ..Stream::default() };
        self.held = self.held.saturating_add(stream.held_bytes());
        self.open.insert(promised, stream);
        self.keep_bounds(ends, out);
    }

    /// Handles a part of a body.
    pub(super) fn data(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        part: DataPart<'_>,
        out: &mut Messages,
    ) {
        if self.with_tunnel(sender, id, |tunnel| tunnel.data(ends.direction(sender), part, out)).is_some() {
            return self.keep_bounds(ends, out);
        }
        self.with(ends, sender, id, part.time, out, |half, out| half.data(part, out));
    }

    /// Handles bytes of a DATA frame that are no part of the body.
    pub(super) fn overhead(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        bytes: usize,
        time: Timestamp,
        out: &mut Messages,
    ) {
        self.with(ends, sender, id, time, out, |half, out| half.overhead(bytes, time, out));
    }

    /// Handles missing bytes of a body, in a frame that began at `time`.
    pub(super) fn data_gap(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        missing: u64,
        time: Timestamp,
        out: &mut Messages,
    ) {
        let direction = ends.direction(sender);
        if self.with_tunnel(sender, id, |tunnel| tunnel.gap(direction, Some(missing), out)).is_none() {
            self.with(ends, sender, id, time, out, |half, out| half.data_gap(missing, out));
        }
    }

    /// Ends one direction of a stream.
    pub(super) fn end_half(&mut self, ends: &Ends, sender: Role, id: u32, out: &mut Messages) {
        if let Some(half) = self.take(sender, id) {
            half.end(ends.role, out);
        }
        self.close_if_ended(ends, id, out);
    }

    /// Handles that a stream was broken off: by an RST_STREAM frame of `sender`, whose code is None if it was
    /// lost. The two directions of a connection may be read and written by two threads, so that the record of
    /// a response comes after that of the reset that answers it. So the stream is kept until the other
    /// direction has come as far: see [`Self::come`].
    pub(super) fn reset(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        code: Option<u32>,
        time: Timestamp,
        out: &mut Messages,
    ) {
        let reset = Reset { sender, code, time };
        let Some(stream) = self.open.get_mut(&id) else { return };
        let is_over = match stream.side(sender.other()) {
            Side::Ended | Side::Tunnel => true,
            Side::Open(half) => sender == Role::Client && half.has_whole_body(),
            Side::Expected => false,
        };
        if is_over {
            return self.end_reset(ends, id, reset, out);
        }
        if stream.reset.replace(reset).is_none() {
            self.resets.push_back(id);
        }
        if self.resets.len() > MAX_RESETS {
            self.end_first_reset(ends, out);
        }
    }

    /// Handles that a frame of `sender` comes that was transferred at this time: everything that was
    /// transferred before in this direction has come.
    pub(super) fn come(&mut self, ends: &Ends, sender: Role, time: Timestamp, out: &mut Messages) {
        self.end_resets(ends, |reset| reset.sender != sender && reset.time < time, out);
    }

    /// Handles that no record comes any more of what happened before this time.
    pub(super) fn settle(&mut self, ends: &Ends, before: Timestamp, out: &mut Messages) {
        self.end_resets(ends, |reset| reset.time < before, out);
    }

    fn end_resets(&mut self, ends: &Ends, is_over: impl Fn(&Reset) -> bool, out: &mut Messages) {
        if self.resets.is_empty() {
            return; // the usual case
        }
        let reset_of = |id: &u32| Some((*id, self.open.get(id)?.reset?));
        let over = self.resets.iter().filter_map(reset_of).filter(|(_, reset)| is_over(reset));
        for (id, reset) in over.collect::<Vec<_>>() {
            self.end_reset(ends, id, reset, out);
        }
    }

    /// Returns whether there was one.
    fn end_first_reset(&mut self, ends: &Ends, out: &mut Messages) -> bool {
        let Some(id) = self.resets.pop_front() else { return false };
        if let Some(reset) = self.open.get(&id).and_then(|stream| stream.reset) {
            self.end_reset(ends, id, reset, out);
        }
        true
    }

    /// Adds the messages of a stream that was broken off.
    fn end_reset(&mut self, ends: &Ends, id: u32, reset: Reset, out: &mut Messages) {
        let Reset { sender, code, time } = reset;
        let error = match code {
            // The server has answered, and does not need the rest of the request.
            Some(0) => None,
            Some(code) => Some(FieldValue::Text(frame::error_name(code))),
            None => Some(FieldValue::Unknown),
        };
        let Some(stream) = self.open.get(&id) else { return };
        let is_answered = matches!(stream.response, Side::Ended);
        if let Some(request) = self.take(Role::Client, id) {
            if is_answered {
                request.abandon(error.clone(), ends.role, out);
            } else {
                request.break_off(None, ends.role, out);
            }
        }
        match self.open.get(&id).map(|stream| &stream.response) {
            Some(Side::Open(response)) if sender == Role::Client && response.has_whole_body() => {
                // The client does not wait for the frame that says so.
                if let Some(response) = self.take(Role::Server, id) {
                    response.end(ends.role, out);
                }
            }
            Some(Side::Open(_)) => {
                if let Some(mut response) = self.take(Role::Server, id) {
                    response.set_last(time);
                    response.break_off(error, ends.role, out);
                }
            }
            Some(Side::Expected) => {
                // There is no response, and none will come.
                let direction = ends.direction(Role::Server);
                let mut response = Half::new(ends.protocol, Role::Server, direction, id, time);
                if !self.is_gapless {
                    // Its beginning may have been missed.
                    response.miss_head(out);
                }
                response.break_off(error, ends.role, out);
            }
            Some(Side::Tunnel | Side::Ended) | None => {}
        }
        self.forget(id, out);
    }

    /// Handles that one end closes the connection, and that it has not processed the other end's streams
    /// after `last`.
    pub(super) fn go_away(
        &mut self,
        ends: &Ends,
        sender: Role,
        last: u32,
        code: Option<u32>,
        time: Timestamp,
        out: &mut Messages,
    ) {
        // A server's streams have even ids.
        let parity = u32::from(sender == Role::Server);
        let refused = self.open.range(last.saturating_add(1)..).map(|(id, _)| *id);
        let refused: Vec<u32> = refused.filter(|id| id % 2 == parity).collect();
        // The same as REFUSED_STREAM, if there was no error.
        let code = code.map(|code| if code == 0 { frame::REFUSED_STREAM } else { code });
        for id in refused {
            self.reset(ends, sender, id, code, time, out);
        }
    }

    /// Handles that frames were missed.
    pub(super) fn miss_frames(&mut self) {
        self.is_gapless = false;
    }

    /// Handles a gap in a direction, which may contain parts of all its streams.
    pub(super) fn gap(&mut self, ends: &Ends, sender: Role, out: &mut Messages) {
        self.miss_frames();
        for stream in self.open.values_mut() {
            match stream.side(sender) {
                Side::Open(half) => half.lose_bytes(out),
                Side::Tunnel => {
                    let tunnel = stream.tunnel.iter_mut();
                    tunnel.for_each(|tunnel| tunnel.gap(ends.direction(sender), None, out));
                }
                Side::Expected | Side::Ended => {}
            }
        }
    }

    /// Adds copies of the messages that are not complete.
    pub(super) fn under_way(&self, ends: &Ends, out: &mut Messages) {
        for stream in self.open.values() {
            for side in [&stream.request, &stream.response] {
                if let Side::Open(half) = side {
                    half.as_ref().clone().break_off(None, ends.role, out);
                }
            }
            if let Some(tunnel) = &stream.tunnel {
                tunnel.under_way(out);
            }
        }
    }

    /// Ends all streams.
    pub(super) fn end(&mut self, ends: &Ends, out: &mut Messages) {
        while self.end_first_reset(ends, out) {}
        while let Some((&id, _)) = self.open.first_key_value() {
            self.break_off(ends, id, out);
        }
    }

    /// Changes one direction of a stream, which begins now if it did not yet. Late frames of a closed stream
    /// are ignored.
    fn with(
        &mut self,
        ends: &Ends,
        sender: Role,
        id: u32,
        time: Timestamp,
        out: &mut Messages,
        change: impl FnOnce(&mut Half, &mut Messages),
    ) {
        if !self.open.contains_key(&id) {
            if !self.may_begin(sender, id) {
                return;
            }
            self.held = self.held.saturating_add(Stream::default().held_bytes());
            self.open.insert(id, Stream::default());
        }
        let Some(stream) = self.open.get_mut(&id) else { return };
        let before = stream.held_bytes();
        let side = stream.side(sender);
        let is_new = matches!(side, Side::Expected);
        if is_new {
            let mut half = Half::new(ends.protocol, sender, ends.direction(sender), id, time);
            if let (1, Role::Server, Some(request)) = (id, sender, self.unanswered) {
                half.answer_before_upgrade(request);
            }
            *side = Side::Open(Box::new(half));
        }
        if is_new
            && sender == Role::Server
            && let (Side::Open(response), Some(call)) = (&mut stream.response, &stream.call)
        {
            response.set_call(call.answer());
        }
        if let Side::Open(half) = stream.side(sender) {
            change(half, out);
        }
        if sender == Role::Client
            && let Side::Open(request) = &stream.request
        {
            stream.call.clone_from(&request.message().call);
        }
        let after = stream.held_bytes();
        self.held = self.held.saturating_sub(before).saturating_add(after);
        self.keep_bounds(ends, out);
    }

    /// Turns a stream into a tunnel, if that is what the request asked for and the response has agreed to.
    fn open_tunnel(&mut self, ends: &Ends, id: u32, out: &mut Messages) {
        let Some(Stream { request: Side::Open(request), response: Side::Open(response), .. }) =
            self.open.get(&id)
        else {
            return;
        };
        let Some(connect) = request.connect().filter(|_| response.is_success()) else { return };
        let tunnel = Tunnel::new(connect, &self.hints, id, response.message());
        for sender in ROLES {
            // The exchange is complete. What follows is not a part of it.
            if let Some(half) = self.take(sender, id) {
                half.end(ends.role, out);
            }
        }
        let Some(stream) = self.open.get_mut(&id) else { return };
        let before = stream.held_bytes();
        (stream.request, stream.response) = (Side::Tunnel, Side::Tunnel);
        stream.tunnel = Some(Box::new(tunnel));
        self.held = self.held.saturating_sub(before).saturating_add(stream.held_bytes());
    }

    /// Changes the tunnel that one direction of a stream has become. None if it is not one.
    fn with_tunnel(&mut self, sender: Role, id: u32, change: impl FnOnce(&mut Tunnel)) -> Option<()> {
        let stream = self.open.get_mut(&id)?;
        if !matches!(stream.side(sender), Side::Tunnel) {
            return None;
        }
        let before = stream.held_bytes();
        change(stream.tunnel.as_mut()?);
        self.held = self.held.saturating_sub(before).saturating_add(stream.held_bytes());
        Some(())
    }

    /// Whether a frame may begin a stream that is not open.
    fn may_begin(&self, sender: Role, id: u32) -> bool {
        // A promise precedes its response. A request does not always, because records may be out of order.
        let is_new = id % 2 == 1 && id > self.highest_request;
        // The request of stream 1 was one of HTTP/1 that led to an upgrade.
        let is_of_upgrade = id == 1 && sender == Role::Server && self.first_request > 1;
        is_new || ((is_of_upgrade || !self.is_gapless) && !self.closed.contains(&id))
    }

    fn take(&mut self, sender: Role, id: u32) -> Option<Half> {
        let stream = self.open.get_mut(&id)?;
        let before = stream.held_bytes();
        let side = stream.side(sender);
        if matches!(side, Side::Expected) {
            return None;
        }
        let taken = std::mem::replace(side, Side::Ended);
        self.held = self.held.saturating_sub(before).saturating_add(stream.held_bytes());
        match taken {
            Side::Open(half) => Some(*half),
            Side::Expected | Side::Tunnel | Side::Ended => None,
        }
    }

    /// Closes a stream if both directions have ended.
    fn close_if_ended(&mut self, ends: &Ends, id: u32, out: &mut Messages) {
        let Some(stream) = self.open.get_mut(&id) else { return };
        if let Some(reset) = stream.reset
            && matches!(stream.side(reset.sender.other()), Side::Ended)
        {
            return self.end_reset(ends, id, reset, out);
        }
        let is_closed = match (&stream.request, &stream.response) {
            (Side::Ended, Side::Ended) => true,
            // The request was lost if a later one came.
            (Side::Expected, Side::Ended) => id <= self.highest_request,
            // The end of the request was probably lost.
            (Side::Open(request), Side::Ended) => request.may_lack(),
            _ => false,
        };
        if is_closed {
            self.break_off(ends, id, out);
        }
    }

    /// Adds the messages of a stream as far as they came, and closes it.
    fn break_off(&mut self, ends: &Ends, id: u32, out: &mut Messages) {
        for sender in ROLES {
            if let Some(half) = self.take(sender, id) {
                half.break_off(None, ends.role, out);
            }
        }
        self.forget(id, out);
    }

    /// The same to make room.
    fn evict(&mut self, ends: &Ends, id: u32, out: &mut Messages) {
        for sender in ROLES {
            if let Some(half) = self.take(sender, id) {
                half.evict(ends.role, out);
            }
        }
        self.forget(id, out);
    }

    fn forget(&mut self, id: u32, out: &mut Messages) {
        if let Some(mut stream) = self.open.remove(&id) {
            self.held = self.held.saturating_sub(stream.held_bytes());
            if stream.reset.is_some() {
                self.resets.retain(|reset| *reset != id);
            }
            if let Some(tunnel) = &mut stream.tunnel {
                tunnel.end(out);
            }
        }
        if self.closed.len() >= MAX_CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(id);
    }

    /// While there are too many streams, or they take too much memory, reports the oldest one as it is.
    fn keep_bounds(&mut self, ends: &Ends, out: &mut Messages) {
        while (self.open.len() > MAX_STREAMS || self.held > MAX_HELD)
            && let Some((&id, _)) = self.open.first_key_value()
        {
            if self.end_first_reset(ends, out) {
                continue;
            }
            self.evict(ends, id, out);
            // What follows of it is not taken for late frames of a closed stream.
            self.is_gapless = false;
            self.closed.pop_back();
        }
    }
}
