//! A connection that begins, or ends.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Library, ProcessContext, Socket, Thread, TlsInfo};

/// What is known of a connection, whether it begins or ends.
#[derive(Clone, Debug)]
pub struct SslOpen<'a> {
    /// When.
    pub time: Timestamp,
    /// Process and container.
    pub origin: Cow<'a, ProcessContext>,
    /// The thread that began it.
    pub thread: Thread,
    /// The library; none when nothing of it was called yet that tells.
    pub library: Option<Cow<'a, Library>>,
    /// Number of the connection, unique in one run, from 1.
    pub id: u64,
    /// Whether it was seen from its creation on.
    pub from_start: bool,
    /// What it is on; none when that is not known.
    pub socket: Option<Cow<'a, Socket>>,
    /// What its ends have agreed on; none when nothing of that is known.
    pub tls: Option<TlsInfo<'a>>,
}

/// A connection has ended.
#[derive(Clone, Debug)]
pub struct SslClose<'a> {
    /// What is known of it.
    pub connection: SslOpen<'a>,
    /// Nanoseconds since it began; none when that was not seen.
    pub duration: Option<u64>,
    /// What went over it.
    pub traffic: Traffic,
    /// How it ended.
    pub end: CloseReason,
}

/// What went over a connection since it was seen.
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
    /// Whichever of two counts has seen more.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            calls: self.calls.max(other.calls),
            received: self.received.max(other.received),
            transmitted: self.transmitted.max(other.transmitted),
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
