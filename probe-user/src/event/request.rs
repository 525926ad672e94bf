//! The records of `ctrace requests`: exchanges of a request and its response, messages that are parts of one,
//! and figures over many.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Direction, Field, FieldValue, Overview, Role};

/// A request and its response, as far as both were seen. Its context has the time of its first byte.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name of the protocol.
    pub protocol: &'static str,
    /// The id of the exchange, unique in one run. None if bytes are missing that show to which exchange the
    /// message belongs.
    pub exchange: Option<String>,
    /// The exchange at a glance.
    pub overview: Overview,
    /// The request. None if it was not seen.
    pub request: Option<RequestSide>,
    /// The response. None if it was not seen.
    pub response: Option<RequestSide>,
    /// Why one of them is missing. None if both are there.
    pub unpaired: Option<UnpairedReason>,
    /// Why the bytes of a message ended before the message did. None if no message is cut off, or if bytes
    /// within it are missing.
    pub cut_off: Option<UnpairedReason>,
    /// The time from its first byte to this report, if the exchange goes on. A later record of it takes the
    /// place of this one.
    pub open_for: Option<Duration>,
    /// Whether the response was complete before the request was, which then was not sent any further. The
    /// request has no end, and nothing of it is missing.
    pub answered_early: bool,
    /// The role of the process, as far as the connection or its messages show it.
    pub role: Option<Role>,
}

/// One message of an exchange.
#[derive(Clone, Debug)]
pub struct RequestSide {
    /// The direction of its bytes.
    pub direction: Direction,
    /// When its first byte was transferred.
    pub first: Timestamp,
    /// When its last byte was transferred.
    pub last: Timestamp,
    /// The number of bytes that it occupies in the stream.
    pub length: u64,
    /// What it lacks.
    pub partial: Partial,
    /// The values of its fields, each with its entry in the protocol's table.
    pub fields: Vec<(&'static Field, FieldValue)>,
    /// Its body, if bodies are shown and it has one.
    pub body: Option<MessageBody>,
}

/// The body of a message, after its encodings were undone.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageBody {
    /// Its first bytes.
    pub data: Vec<u8>,
    /// The media type with its parameters, as the peer gave it.
    pub media_type: Option<String>,
    /// Whether there are more bytes than those.
    pub is_cut: bool,
    /// Whether records of the messages that it contains have shown it already.
    pub in_messages: bool,
    /// The encodings that were not undone, so that `data` is still encoded by them.
    pub encodings: Vec<String>,
    /// The messages of protocol buffers that it contains, each as JSON by the names of their schema. None if
    /// they are not asked for, or if it does not contain such messages.
    pub named: Option<Vec<String>>,
    /// Why the encodings were not undone, or the names are not those of the body.
    pub problem: Option<String>,
}

/// The parts that a message lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// The number of missing bytes within it, as far as it can be determined.
    pub missing: u64,
    /// Whether its beginning was not captured.
    pub lacks_start: bool,
    /// Whether its end was not captured.
    pub lacks_end: bool,
    /// Whether bytes within it may be missing: there is a gap of which it is unknown what it contained.
    pub may_lack: bool,
}

/// Why a message is alone, or has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnpairedReason {
    /// The connection was closed.
    Closed,
    /// The exchange had not ended when the trace did, or when it was reported.
    Open,
    /// A later message took its place.
    Superseded,
    /// It was forgotten to make room.
    Evicted,
    /// It is a response, and its request was not seen.
    NoRequest,
    /// Bytes are missing, so that its counterpart cannot be determined.
    Unknown,
    /// It is a request that asks for no response: nothing is missing.
    OneWay,
}

/// A message that is a part of an exchange: a server-sent event, a message of a stream.
#[derive(Clone, Debug)]
pub struct StreamMessage {
    /// The name of the protocol.
    pub protocol: &'static str,
    /// The protocol as people call it.
    pub shown: Cow<'static, str>,
    /// The id of the exchange. None if the message belongs to none that is known.
    pub exchange: Option<String>,
    /// The number of the message among those of its exchange in its direction, from 1. None if it is unknown.
    pub number: Option<u64>,
    /// The role of the process, as far as the connection or its messages show it.
    pub role: Option<Role>,
    /// The message itself.
    pub message: RequestSide,
}

/// Figures over the exchanges of a span of time that ends at the record's time, by what they have in common.
#[derive(Clone, Debug)]
pub struct RequestStats {
    /// What the exchanges of a group have in common.
    pub by: RequestKey,
    /// The start of the span.
    pub since: Timestamp,
    /// The groups, the largest first.
    pub groups: Vec<RequestGroup>,
}

/// What exchanges are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestKey {
    /// The path of the target, with `*` for each segment that is a number or a UUID.
    Path,
    /// The host that the request is for.
    Host,
    /// The address of the other end.
    Peer,
    /// The status of the response.
    Status,
    /// The method, or the command.
    Method,
    /// The statement of a database without its values, the command of Redis without its keys, the topic of
    /// Kafka.
    Statement,
    /// The container.
    Container,
    /// The name of the process.
    Process,
}

/// Figures over exchanges that have something in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestGroup {
    /// What they have in common. None stands for what is unknown, and for groups beyond the limit.
    pub value: Option<String>,
    /// How many exchanges there were.
    pub count: u64,
    /// How many of them failed by the fault of either side.
    pub errors: u64,
    /// Bytes of the requests.
    pub request_bytes: u64,
    /// Bytes of the responses.
    pub response_bytes: u64,
    /// The durations. None if none is known.
    pub durations: Option<Durations>,
    /// The one that took longest.
    pub slowest: Option<SlowExample>,
}

/// An exchange that took longer than others of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowExample {
    /// How long it took.
    pub duration: Duration,
    /// The time of its first byte.
    pub time: Timestamp,
    /// Its id.
    pub exchange: Option<String>,
    /// The id of its process.
    pub pid: Option<u32>,
    /// What was asked for, without secrets.
    pub target: Option<String>,
}

/// Durations, in nanoseconds. Percentiles are accurate to 4 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Durations {
    /// Half of the exchanges took at most this long.
    pub p50: u64,
    /// 95 % of the exchanges took at most this long.
    pub p95: u64,
    /// 99 % of the exchanges took at most this long.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// What `ctrace requests` adds to the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCounts {
    /// Exchanges that were seen, whether they are shown or not.
    pub exchanges: u64,
    /// How many of them are incomplete.
    pub incomplete: u64,
    /// Exchanges and messages of streams that are shown.
    pub shown: u64,
    /// Connections in which no protocol was found.
    pub unknown_connections: u64,
    /// Bytes of all connections that did not become part of a message.
    pub undecoded_bytes: u64,
    /// Bytes that are missing in the streams of all connections.
    pub missing_bytes: u64,
    /// Connections that were forgotten to make room.
    pub evicted_connections: u64,
}

impl Partial {
    /// Whether nothing is missing.
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }
}

impl Request {
    /// The messages that were seen.
    pub fn sides(&self) -> impl Iterator<Item = &RequestSide> {
        self.request.iter().chain(&self.response)
    }

    /// The time from the first byte of the request to the last byte of the response. None while the exchange
    /// goes on.
    pub fn duration(&self) -> Option<Duration> {
        self.since_request(|response| response.last).filter(|_| self.open_for.is_none())
    }

    /// How long it took, or how long it has taken so far.
    pub fn duration_so_far(&self) -> Option<Duration> {
        self.open_for.or_else(|| self.duration())
    }

    /// The time from the first byte of the request to the first byte of the response.
    pub fn time_to_first_byte(&self) -> Option<Duration> {
        self.since_request(|response| response.first)
    }

    /// Whether both messages were seen from their first to their last byte, as far as they were sent.
    pub fn is_complete(&self) -> bool {
        let has_both = matches!(self.unpaired, None | Some(UnpairedReason::OneWay));
        has_both && self.sides().all(|side| side.partial.is_whole())
    }

    /// Records that messages of the bodies were shown, so many that were sent and received.
    pub fn mark_bodies_in_messages(&mut self, [sent, received]: [u64; 2]) {
        for side in self.request.iter_mut().chain(&mut self.response) {
            let shown = if side.direction == Direction::Transmit { sent } else { received };
            if let Some(body) = side.body.as_mut().filter(|_| shown > 0) {
                body.in_messages = true;
            }
        }
    }

    /// The bytes that are missing within both messages, as far as they can be determined.
    pub fn missing(&self) -> u64 {
        self.sides().fold(0, |sum, side| sum.saturating_add(side.partial.missing))
    }

    /// Records may be out of order, and thus the times of calls. The result is 0 then.
    fn since_request(&self, time: fn(&RequestSide) -> Timestamp) -> Option<Duration> {
        let (request, response) = (self.request.as_ref()?, self.response.as_ref()?);
        let is_known = !request.partial.lacks_start;
        is_known.then(|| Duration::try_from(time(response).duration_since(request.first)).unwrap_or_default())
    }
}

impl fmt::Debug for MessageBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageBody({} bytes)", self.data.len())
    }
}
