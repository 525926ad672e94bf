//! The records of `ctrace ssl`: calls that move plaintext, and connections that open and close.

use std::borrow::Cow;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Library, Plaintext};

/// A call that moved plaintext, or a part of it when other parts were lost. Its time is that of the return.
#[derive(Clone, Debug)]
pub struct Ssl<'a> {
    /// The library.
    pub library: Cow<'a, Library>,
    /// The function, such as `SSL_write`.
    pub function: Cow<'a, str>,
    /// The direction.
    pub direction: Direction,
    /// The position of the call on its connection. None if the record has no connection.
    pub position: Option<CallPosition>,
    /// The number of bytes that the call transferred.
    pub length: u64,
    /// The time from its entry to its return. None if a recording does not have it.
    pub duration: Option<Duration>,
    /// The number of bytes of the call that were captured, over all of its records. A limit cut the rest.
    pub captured: u32,
    /// The offset of `data` in the call.
    pub offset: u32,
    /// The bytes.
    pub data: Plaintext<'a>,
}

/// The position of a call on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPosition {
    /// The number of the call on the connection, from 1.
    pub call: u64,
    /// The offset of the first byte of the call in the stream of its direction.
    pub stream_offset: u64,
}

/// Which way the bytes of a call go, seen from the traced process (`network.io.direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the peer.
    Transmit,
    /// From the peer.
    Receive,
}

impl Direction {
    /// The opposite direction.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Transmit => Self::Receive,
            Self::Receive => Self::Transmit,
        }
    }
}

/// A connection was opened. Its thread is the one that opened it.
#[derive(Clone, Debug)]
pub struct SslOpen<'a> {
    /// The library. None if no function was called yet that shows it.
    pub library: Option<Cow<'a, Library>>,
}

/// A connection was closed. Its thread is the one that opened it.
#[derive(Clone, Debug)]
pub struct SslClose<'a> {
    /// The library. None if no function was called that shows it.
    pub library: Option<Cow<'a, Library>>,
    /// Nanoseconds since the open. None if that was not seen.
    pub duration: Option<u64>,
    /// What was transferred.
    pub traffic: Traffic,
    /// Why it was closed.
    pub reason: CloseReason,
}

/// What was transferred on a connection since it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Calls that moved bytes, in both directions.
    pub calls: u64,
    /// Bytes of plaintext received.
    pub received: u64,
    /// Bytes of plaintext sent.
    pub transmitted: u64,
}

impl Traffic {
    /// The larger of two counts, number by number.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            calls: self.calls.max(other.calls),
            received: self.received.max(other.received),
            transmitted: self.transmitted.max(other.transmitted),
        }
    }

    /// The sum of two counts.
    #[must_use]
    pub fn sum(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            received: self.received.saturating_add(other.received),
            transmitted: self.transmitted.saturating_add(other.transmitted),
        }
    }
}

/// How a connection has ended, or how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The program has ended it by a function of the library, such as `SSL_free`.
    Closed,
    /// Its handle is another connection's: it had ended by then.
    HandleReused,
    /// Its socket was closed.
    SocketClosed,
    /// Its process has ended.
    Exit,
    /// Its process executes another program.
    Exec,
}
