//! Protocols: the meaning of a connection's bytes. Pure; every parser has limits.
//!
//! Owns the table of protocols and the interface of a protocol. A protocol is one file and one line in
//! [`ALL`]: the outputs, the schema and the documentation iterate over the protocol's table of fields.

mod call;
pub mod content;
mod conversation;
mod correlation;
mod database;
mod grpc;
mod http;
mod http1;
mod http2;
mod input;
mod kafka;
mod message;
mod mongodb;
mod mysql;
mod postgresql;
mod redis;
mod sse;
pub mod tls;
mod websocket;

use std::fmt;

use jiff::Timestamp;

use crate::event::{Direction, Field, Overview, Role};

pub use call::{NamedBody, RpcCall, named_body};
pub use conversation::Conversation;
pub use input::{CallMark, Chunk, Gap, GapCause, Input};
pub use message::{ExchangeKey, Message, MessageKind, Messages, Partial};

/// All protocols that are decoded. If bytes fit several, the first one takes precedence.
pub const ALL: &[&Protocol] = &[
    &http2::HTTP2,
    &http1::HTTP1,
    &websocket::WEBSOCKET,
    &redis::REDIS,
    &postgresql::POSTGRESQL,
    &kafka::KAFKA,
    &mongodb::MONGODB,
    &mysql::MYSQL,
];

/// A protocol.
#[derive(Debug)]
pub struct Protocol {
    /// The name in records and on the command line.
    pub name: &'static str,
    /// A description in a few words.
    pub help: &'static str,
    /// The usual ports. They only decide between several protocols that fit.
    pub ports: &'static [u16],
    /// All fields that its messages can have. Protocols of one family share theirs.
    pub fields: &'static [Field],
    /// Whether its messages are requests and responses. Otherwise they are all that there is to show of it.
    pub has_exchanges: bool,
    /// Summarises an exchange: its request and its response, as far as they were seen.
    pub overview: fn(Option<&Message>, Option<&Message>) -> Overview,
    /// Checks whether a connection uses the protocol.
    pub detect: fn(&Prefix<'_>) -> Detect,
    /// Creates a decoder for such a connection.
    pub open: fn(&Hints) -> Box<dyn Decoder>,
}

/// What is known about a connection apart from its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Whether the process is client or server.
    pub role: Option<Role>,
    /// The protocol that both ends have negotiated (ALPN).
    pub alpn: Option<String>,
    /// The server name that the client requests (SNI).
    pub server_name: Option<String>,
    /// The port of this end.
    pub local_port: Option<u16>,
    /// The port of the other end.
    pub peer_port: Option<u16>,
    /// The extensions that both ends agreed on in an upgrade, as the server named them
    /// (`Sec-WebSocket-Extensions`, empty if it named none). None if the upgrade was not seen.
    pub extensions: Option<String>,
    /// The id of the request that asked for the upgrade, in the previous protocol, if this one answers it.
    pub unanswered: Option<u64>,
    /// Whether the bytes begin with the first ones of the protocol in both directions: the connection was not
    /// joined in the middle, and nothing is missing before them.
    pub from_start: bool,
}

/// The first bytes of both directions.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// The bytes that the process sent.
    pub transmit: Input<'a>,
    /// The bytes that it received.
    pub receive: Input<'a>,
    /// What is known apart from the bytes.
    pub hints: &'a Hints,
}

impl<'a> Prefix<'a> {
    /// Both directions, the sent one first.
    pub fn sides(&self) -> [Input<'a>; 2] {
        [self.transmit, self.receive]
    }
}

/// Whether bytes fit a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// They fit.
    Yes,
    /// They do not, whatever follows.
    No,
    /// More bytes are needed to decide.
    NeedMore,
}

/// What a decoder did with its input.
#[derive(Clone, Debug)]
pub enum Step {
    /// It consumed nothing, because it needs more bytes of this direction or must see the other one first. It
    /// gets the same bytes again, with more.
    More,
    /// It consumed this many bytes, and is called again for the rest.
    Taken(usize),
    /// It skipped this many bytes because it could not make sense of them, and is called again for the rest.
    /// They count as not decoded.
    Skipped(usize),
    /// It consumed some bytes, and everything that follows in both directions is in another protocol. If none
    /// is given, that is to be detected. The decoder's [end](Decoder::end) is called.
    Upgrade {
        /// The number of consumed bytes.
        taken: usize,
        /// The next protocol.
        to: Option<&'static Protocol>,
        /// [`Hints::extensions`] of the next protocol.
        extensions: Option<String>,
        /// [`Hints::unanswered`] of the next protocol.
        unanswered: Option<u64>,
    },
}

/// A decoder cannot make sense of its input. Its [gap](Decoder::gap) is called for the bytes up to the next
/// call, and decoding continues from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes cannot be decoded: {0}")]
pub struct Desync(pub &'static str);

/// Decodes one connection in a protocol. It gets bytes in order, is informed of gaps, and adds messages.
pub trait Decoder: fmt::Debug + Send {
    /// Handles that more may be known about the connection than when the decoder was created: its role.
    fn learn(&mut self, _hints: &Hints) {}

    /// Decodes bytes of one direction that were not consumed yet, of which there is at least one. Bodies are
    /// to be consumed as they come: the limit on waiting bytes only allows for the head of a message.
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync>;

    /// Handles missing bytes after the last consumed one.
    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages);

    /// Handles the end of the connection: adds the messages that are not complete.
    fn end(&mut self, out: &mut Messages);

    /// The role of the process, as far as the messages show it.
    fn role(&self) -> Option<Role> {
        None
    }

    /// Handles that no record comes any more of what happened before this time. Called from time to time.
    fn settle(&mut self, _before: Timestamp, _out: &mut Messages) {}

    /// Adds copies of the messages that are not complete, as they would be if the connection ended now.
    /// Events among them do not count.
    fn under_way(&self, _out: &mut Messages) {}

    /// The approximate memory that it takes for messages that are not complete, and for conversations within
    /// this one.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// Detects the protocol of a connection from its first bytes. If several fit, one that is used on the
/// connection's ports wins, otherwise the first one.
fn detect(protocols: &[&'static Protocol], prefix: &Prefix<'_>) -> Result<&'static Protocol, Detect> {
    let ports = [prefix.hints.local_port, prefix.hints.peer_port];
    let mut found: Option<&'static Protocol> = None;
    let mut otherwise = Detect::No;
    for &protocol in protocols {
        match (protocol.detect)(prefix) {
            Detect::Yes if protocol.ports.iter().any(|port| ports.contains(&Some(*port))) => {
                return Ok(protocol);
            }
            Detect::Yes => found = found.or(Some(protocol)),
            Detect::NeedMore => otherwise = Detect::NeedMore,
            Detect::No => {}
        }
    }
    found.ok_or(otherwise)
}

#[cfg(test)]
pub(crate) mod tests;
