//! Protocols: what the bytes of a connection mean. Pure; every parser has limits.
//!
//! Owns the table of protocols and what one has to be. A protocol is one file and one line in [`ALL`]: what
//! writes messages, the schema and the documentation walk the protocol's table of fields.

mod conversation;
mod input;
mod message;
pub mod tls;

use std::fmt;

use crate::event::{Direction, Role};

pub use conversation::Conversation;
pub use input::{CallMark, Chunk, Gap, GapCause, Input};
pub use message::{ExchangeKey, Field, FieldKind, FieldValue, Message, MessageKind, Messages, Partial};

/// All protocols that are decoded, those first that take precedence when bytes fit several.
pub const ALL: &[&Protocol] = &[];

/// A protocol.
#[derive(Debug)]
pub struct Protocol {
    /// Its name in records and on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub help: &'static str,
    /// Ports that it is used on. They only decide between protocols that all fit.
    pub ports: &'static [u16],
    /// All fields that its messages can have.
    pub fields: &'static [Field],
    /// Whether a connection speaks it.
    pub detect: fn(&Prefix<'_>) -> Detect,
    /// Makes a decoder for a connection that does.
    pub open: fn(&Hints) -> Box<dyn Decoder>,
}

/// What is known of a connection beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Whether the process is client or server.
    pub role: Option<Role>,
    /// The protocol that the two ends have agreed on.
    pub alpn: Option<String>,
    /// The name of the server that the client wants.
    pub server_name: Option<String>,
    /// The port of this end.
    pub local_port: Option<u16>,
    /// The port of the other end.
    pub peer_port: Option<u16>,
    /// Whether the first bytes are the first ones of the protocol in both directions: the connection was not
    /// joined in the middle, and nothing is missing before them.
    pub from_start: bool,
}

/// The first bytes of both directions.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// What the process sent.
    pub transmit: Input<'a>,
    /// What it received.
    pub receive: Input<'a>,
    /// What is known beside.
    pub hints: &'a Hints,
}

impl<'a> Prefix<'a> {
    /// Both directions.
    pub fn sides(&self) -> [Input<'a>; 2] {
        [self.transmit, self.receive]
    }
}

/// Whether bytes are of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// They are.
    Yes,
    /// They are not, whatever follows.
    No,
    /// More of them will tell.
    NeedMore,
}

/// What a decoder did with bytes.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Nothing: it needs more of this direction, or has to see the other one first. The same bytes come
    /// again, with more.
    More,
    /// It took so many, and is asked again for the rest.
    Taken(usize),
    /// It could make no sense of so many, and is asked again for the rest: they count as not decoded.
    Skipped(usize),
    /// It took so many; all that follows in both directions is of another protocol, or, if there is none
    /// here, of one that is to be detected. The decoder is told of its [end](Decoder::end).
    Upgrade {
        /// How many.
        taken: usize,
        /// The protocol.
        to: Option<&'static Protocol>,
    },
}

/// A decoder can make no sense of its input. It is told of the [gap](Decoder::gap) up to the next call, and
/// asked again from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes cannot be decoded: {0}")]
pub struct Desync(pub &'static str);

/// A protocol's reading of one connection. It sees bytes in order, is told of what is missing, and adds
/// messages.
pub trait Decoder: fmt::Debug + Send {
    /// Looks at the bytes of a direction that it has not taken yet, of which there is at least one. It takes
    /// bodies as they come: only so much as the head of a message may wait.
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync>;

    /// Bytes are missing behind the last one that it took.
    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages);

    /// Nothing more comes: adds what is not complete yet.
    fn end(&mut self, out: &mut Messages);
}

/// The protocol of a connection's first bytes. Of several that fit it is one that is used on the connection's
/// ports, or else the first one.
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
