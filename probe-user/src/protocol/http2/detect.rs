//! Whether a connection uses HTTP/2.

use super::chain::{self, ChainEvidence};
use super::frame::{FrameHead, FrameType, PREFACE};
use crate::event::{Direction, Role};
use crate::protocol::{Detect, Input, Prefix};

/// Whether the bytes are of HTTP/2: by ALPN, by the client's preface, or by a chain of frames.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    match prefix.hints.alpn.as_deref() {
        Some("h2" | "h2c") => return Detect::Yes,
        Some(_) => return Detect::No,
        None => {}
    }
    let sides = [(Direction::Transmit, prefix.transmit), (Direction::Receive, prefix.receive)];
    let each = sides.map(|(from, input)| {
        let sender = prefix.hints.role.map(|role| match (role, from) {
            (role, Direction::Transmit) => role,
            (Role::Client, Direction::Receive) => Role::Server,
            (Role::Server, Direction::Receive) => Role::Client,
        });
        if prefix.hints.from_start { start(input, sender) } else { middle(input, sender) }
    });
    match each {
        [Detect::Yes, _] | [_, Detect::Yes] => Detect::Yes,
        [Detect::No, _] | [_, Detect::No] => Detect::No,
        _ => Detect::NeedMore,
    }
}

/// Whether the first bytes of a direction are of HTTP/2.
fn start(input: Input<'_>, sender: Option<Role>) -> Detect {
    let client = match input.data {
        data if data.starts_with(PREFACE) => Detect::Yes,
        data if PREFACE.starts_with(data) => Detect::NeedMore,
        _ => Detect::No,
    };
    // A server begins with SETTINGS. Only the other end shows that these are.
    let server = match FrameHead::parse(input.data) {
        None => Detect::NeedMore,
        Some(head) if head.kind == FrameType::Settings && head.is_lawful() => Detect::NeedMore,
        Some(_) => Detect::No,
    };
    match sender {
        Some(Role::Server) => server,
        None if client == Detect::No => server,
        Some(Role::Client) | None => client,
    }
}

/// Whether frames begin where a call of a direction does. If not, they may where a later one does.
fn middle(input: Input<'_>, sender: Option<Role>) -> Detect {
    match chain::search(input, sender) {
        Some((_, ChainEvidence::Preface | ChainEvidence::Frames(_))) => Detect::Yes,
        Some((_, ChainEvidence::NeedMore | ChainEvidence::None)) | None => Detect::NeedMore,
    }
}
