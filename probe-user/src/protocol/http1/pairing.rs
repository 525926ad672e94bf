//! Which request a response answers.
//!
//! HTTP/1 has no ids: responses come in the order of the requests, so pairing is counting, and a wrong count
//! would make every later pair wrong. After a loss, pairs are only formed again when the connection was idle:
//! when every request was answered. This is known in one of three ways:
//!
//! - Only responses were lost. Their number is at least that of the responses that were seen to begin, and at
//!   most that of the requests that were sent before. If both are equal when the next request is sent,
//!   nothing is outstanding.
//! - Nothing was transferred for [`IDLE_PAUSE`] after a response, and then the client sends a request.
//! - The client uses methods after which RFC 9112 forbids to pipeline, and has got one response after each of
//!   the last [`SEQUENTIAL`] requests before it sent the next one.
//!
//! None of them suffices for a client that was seen to pipeline. It may send, and be silent, while the server
//! still owes responses that were asked for before the loss, and a body that contains HTTP/1 may look like
//! responses while the client sends. For such clients the first two have to come together.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::Hints;

/// The most requests that wait for their responses. Clients that pipeline send some tens at once.
const MAX_PENDING: usize = 1024;
/// A client that does not pipeline, and is silent for this long after a response, has no request outstanding.
pub(super) const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// After how many requests in a row with one response each a client counts as one that does not pipeline, if
/// it must not. One that does, and was joined in the middle, shows it by then: it has just as many requests
/// in flight all the time only if nothing ever makes it send two in a row.
const SEQUENTIAL: u32 = 16;

/// What is known about the next response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// It answers the first pending request.
    Exact,
    /// Responses are missing, but no requests. At least `begun` responses had begun when the last bytes were
    /// lost, and `seen` ones since. The latter may be bytes of a body that look like responses, unless the
    /// client goes on where they end.
    Counting { begun: u64, seen: u64 },
    /// It answers the first pending request. If there is none, the number of earlier requests is unknown.
    Blind,
}

/// What the method of a request says about its response and about the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Head,
    Connect,
    /// An idempotent one: clients may send further requests before its response.
    Idempotent,
    /// Clients must not pipeline after it.
    Other,
}

impl Method {
    pub(super) fn of(name: &str) -> Self {
        match name {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            "GET" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Other,
        }
    }
}

/// What matters of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRequest {
    pub(super) method: Method,
    /// Whether it asks to switch to another protocol.
    pub(super) asks_to_switch: bool,
    /// When its first byte was transferred.
    pub(super) time: Timestamp,
}

/// A request that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRequest {
    pub(super) id: u64,
    pub(super) sent: SentRequest,
}

/// Which request a response answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    To(PendingRequest),
    /// Its request was not seen yet.
    Wait,
    /// That cannot be determined. It is one of these.
    Unknown(Candidates),
}

/// The requests that a response may answer, as to whether it has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidates {
    /// All of them were seen, and responses to them have a body.
    WithBody,
    /// One of them was seen whose response has none.
    SomeWithoutBody,
    /// Not all of them were seen.
    Unseen,
}

/// The state of the other direction when a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseSide {
    /// All responses that were seen are complete.
    BetweenMessages,
    /// There are bytes of which it is unknown what belongs to them.
    WithinMessage,
}

/// Whether the client was seen to send a request before it had the response to the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipelining {
    /// That cannot be judged yet: the connection was joined in the middle, and no response was seen. The call
    /// that receives the first one may have waited for it when the trace began, and is not seen.
    Unjudged,
    NotSeen,
    Seen,
}

/// The pairing of the requests and responses of a connection.
#[derive(Debug)]
pub(super) struct Pairing {
    certainty: Certainty,
    /// The number of requests, which is the id of the last one.
    requests: u64,
    pending: VecDeque<PendingRequest>,
    /// The unpaired requests without a response, as far as they were seen.
    outstanding: u64,
    pipelining: Pipelining,
    /// Whether a request without an id may have a response without a body.
    may_lack_body: bool,
    /// Whether a response is complete, and neither a request nor a gap has followed.
    is_settled: bool,
    /// The number of the last requests of methods after which clients must not pipeline, that had one
    /// response each before the next request.
    sequential: u32,
    /// The number of responses since the last request.
    responses: u32,
    last_response: Option<Timestamp>,
    last_byte: Option<Timestamp>,
    /// A moment at which the connection was taken for idle, until a response that begins there confirms it.
    assumed_idle: Option<AssumedIdle>,
}

/// A moment at which the connection was taken for idle.
#[derive(Clone, Copy, Debug)]
struct AssumedIdle {
    time: Timestamp,
    /// [`Certainty::Counting`] before it. None if the count of requests was unknown.
    begun: Option<u64>,
}

impl Pairing {
    /// The pairing of a connection of which nothing was decoded yet.
    pub(super) fn new(hints: &Hints) -> Self {
        let from_start = hints.from_start;
        Self {
            certainty: if from_start { Certainty::Exact } else { Certainty::Blind },
            requests: 0,
            pending: VecDeque::new(),
            outstanding: 0,
            pipelining: if from_start { Pipelining::NotSeen } else { Pipelining::Unjudged },
            may_lack_body: false,
            is_settled: false,
            sequential: 0,
            responses: 0,
            last_response: None,
            last_byte: None,
            assumed_idle: None,
        }
    }

    /// The approximate memory that it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.pending.capacity() * size_of::<PendingRequest>()
    }

    /// Whether all requests and responses were counted.
    pub(super) fn is_exact(&self) -> bool {
        self.certainty == Certainty::Exact
    }

    /// Whether what follows the last request depends on its response.
    pub(super) fn awaits_switch(&self) -> bool {
        self.certainty == Certainty::Exact && self.pending.back().is_some_and(|last| last.sent.asks_to_switch)
    }

    /// Whether the response to a request is to come.
    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.pending.front().is_some_and(|first| first.id <= id)
    }

    /// The request that the next response answers, if that is known.
    pub(super) fn next(&self) -> Option<PendingRequest> {
        self.pending.front().copied()
    }

    /// A request begins. Returns its id. None if its response will not be known.
    pub(super) fn request(&mut self, sent: SentRequest, responses: ResponseSide) -> Option<u64> {
        let SentRequest { method, time, .. } = sent;
        match self.pipelining {
            Pipelining::Unjudged => (self.outstanding, self.may_lack_body) = (0, false),
            Pipelining::NotSeen if self.outstanding > 0 => self.pipelining = Pipelining::Seen,
            Pipelining::NotSeen | Pipelining::Seen => {}
        }
        if self.certainty != Certainty::Exact && responses == ResponseSide::BetweenMessages {
            self.find_idle(time);
        }
        self.requests = self.requests.saturating_add(1);
        self.is_settled = false;
        self.sequential = if method != Method::Other {
            0
        } else if self.responses == 1 {
            self.sequential.saturating_add(1)
        } else {
            1
        };
        self.responses = 0;
        if self.certainty == Certainty::Exact && self.pending.len() >= MAX_PENDING {
            self.certainty = Certainty::Blind;
        }
        if self.certainty != Certainty::Exact {
            self.outstanding = self.outstanding.saturating_add(1);
            self.may_lack_body |= matches!(method, Method::Head | Method::Connect);
            return None;
        }
        let id = self.requests;
        self.pending.push_back(PendingRequest { id, sent });
        Some(id)
    }

    /// Checks whether nothing was outstanding when a request was sent.
    fn find_idle(&mut self, time: Timestamp) {
        let begun = match self.certainty {
            // The times show that all responses up to here answer requests that were sent before this one.
            Certainty::Counting { begun, seen }
                if begun.saturating_add(seen) == self.requests
                    && self.last_response.is_none_or(|last| last < time) =>
            {
                Some(begun)
            }
            _ => None,
        };
        let pause = self.pause(time);
        let is_quiet = pause.is_some_and(|pause| pause >= IDLE_PAUSE);
        let is_sequential = pause.is_some() && self.sequential >= SEQUENTIAL && self.responses == 1;
        let is_answered = self.is_settled && self.pending.is_empty() && self.outstanding == 0;
        let is_idle = if self.pipelining == Pipelining::Seen {
            begun.is_some() && is_quiet
        } else {
            begun.is_some() || (is_answered && (is_quiet || is_sequential))
        };
        if is_idle {
            self.certainty = Certainty::Exact;
            self.pending.clear();
            (self.outstanding, self.may_lack_body) = (0, false);
            self.assumed_idle = Some(AssumedIdle { time, begun });
        }
    }

    /// How long nothing was transferred up to a time. None if something was transferred since.
    fn pause(&self, time: Timestamp) -> Option<Duration> {
        self.last_byte.and_then(|last| Duration::try_from(time.duration_since(last)).ok())
    }

    /// Whether a request at this time shows that the response before it has ended, of which only the head was
    /// seen, although the head announces a body.
    pub(super) fn ends_response(&self, time: Timestamp) -> bool {
        let is_quiet = self.pause(time).is_some_and(|pause| pause >= IDLE_PAUSE);
        let is_answered = self.outstanding == 0 && self.pipelining != Pipelining::Seen;
        self.certainty == Certainty::Blind && is_answered && is_quiet
    }

    /// A response begins that is not an interim one.
    pub(super) fn response(&mut self, time: Timestamp) -> Answer {
        self.confirm_idle(time);
        self.is_settled = false;
        self.responses = self.responses.saturating_add(1);
        let unseen = match (&mut self.certainty, self.pending.pop_front()) {
            (Certainty::Exact | Certainty::Blind, Some(request)) => return Answer::To(request),
            (Certainty::Exact, None) => return Answer::Wait,
            (Certainty::Counting { seen, .. }, _) => {
                *seen = seen.saturating_add(1);
                Candidates::WithBody
            }
            (Certainty::Blind, None) => Candidates::Unseen,
        };
        if self.pipelining == Pipelining::Unjudged {
            self.pipelining = Pipelining::NotSeen;
        }
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 && self.pipelining == Pipelining::NotSeen && unseen == Candidates::Unseen {
            // As far as is known, it is the only one to come.
            self.may_lack_body = false;
        }
        Answer::Unknown(if self.may_lack_body { Candidates::SomeWithoutBody } else { unseen })
    }

    /// A response begins right where the connection was taken for idle. If it was transferred before that
    /// moment, its record came late, and the connection was not idle.
    pub(super) fn confirm_idle(&mut self, time: Timestamp) {
        match self.assumed_idle.take() {
            Some(idle) if time < idle.time => self.revoke(idle),
            _ => {}
        }
    }

    /// The connection was not idle.
    fn revoke(&mut self, idle: AssumedIdle) {
        self.lose_count();
        if let Some(begun) = idle.begun {
            self.certainty = Certainty::Counting { begun, seen: 0 };
        }
    }

    /// A response is complete.
    pub(super) fn end_response(&mut self, time: Timestamp) {
        self.is_settled = true;
        if self.pending.front().is_some_and(|next| next.sent.time < time) {
            self.pipelining = Pipelining::Seen;
        }
    }

    /// Bytes were transferred, whatever they are.
    pub(super) fn saw_bytes(&mut self, time: Timestamp) {
        self.last_byte = self.last_byte.max(Some(time));
    }

    /// The server sent bytes.
    pub(super) fn saw_response_bytes(&mut self, time: Timestamp) {
        self.last_response = self.last_response.max(Some(time));
    }

    /// Bytes of the client are missing, in which requests may have begun.
    pub(super) fn lose_requests(&mut self) {
        self.certainty = Certainty::Blind;
        (self.is_settled, self.sequential, self.outstanding) = (false, 0, 0);
    }

    /// Bytes of the server are missing, in which responses may have begun.
    pub(super) fn lose_responses(&mut self) {
        if let Some(idle) = self.assumed_idle.take() {
            // They may have been transferred before that moment, or what came before them was no response.
            return self.revoke(idle);
        }
        (self.is_settled, self.sequential) = (false, 0);
        self.certainty = match self.certainty {
            Certainty::Exact => {
                let pending = u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
                Certainty::Counting { begun: self.requests.saturating_sub(pending), seen: 0 }
            }
            Certainty::Counting { begun, .. } => Certainty::Counting { begun, seen: 0 },
            Certainty::Blind => Certainty::Blind,
        };
        self.forget_pending();
    }

    /// Neither side's messages can be counted on.
    pub(super) fn lose_count(&mut self) {
        self.lose_requests();
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        let lacks_body =
            |request: &PendingRequest| matches!(request.sent.method, Method::Head | Method::Connect);
        self.may_lack_body |= self.pending.iter().any(lacks_body);
        if self.pending.len() > 1 {
            self.pipelining = Pipelining::Seen;
        }
        self.pending.clear();
        self.outstanding = 0;
    }
}
