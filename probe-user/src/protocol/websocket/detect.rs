//! Whether a connection that was joined in the middle uses WebSocket.
//!
//! One byte, or one frame, proves nothing. Frames have to follow each other in both directions, until it is
//! all but impossible that other bytes look so.

use super::extensions::Agreement;
use super::frame::{FrameEvidence, chain};
use crate::event::Role;
use crate::protocol::{Detect, Input, Prefix};

/// The evidence that is needed: one in 4 billion.
const ENOUGH: u32 = 32;
/// The frames that are needed in both directions together.
const MIN_FRAMES: u32 = 3;
/// The most starts of calls in one direction that are tried at a time.
const MAX_STARTS: usize = 16;

/// A connection that begins with WebSocket does not exist: it comes by an upgrade, which names it.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.from_start {
        return Detect::No;
    }
    let roles: &[Role] = match prefix.hints.role {
        Some(Role::Client) => &[Role::Client],
        Some(Role::Server) => &[Role::Server],
        None => &[Role::Client, Role::Server],
    };
    let mut all = Detect::No;
    for role in roles {
        let peer = role.other();
        match (best(prefix.transmit, *role), best(prefix.receive, peer)) {
            (None, None) => {}
            (Some(sent), Some(received))
                if sent.frames > 0
                    && received.frames > 0
                    && sent.frames + received.frames >= MIN_FRAMES
                    && sent.bits + received.bits >= ENOUGH =>
            {
                return Detect::Yes;
            }
            _ => all = Detect::NeedMore,
        }
    }
    all
}

/// The best evidence in one direction. None if no frame begins in it.
fn best(input: Input<'_>, sender: Role) -> Option<FrameEvidence> {
    let starts = input.call_starts().take(MAX_STARTS);
    starts
        .filter_map(|start| chain(input, start, sender, Agreement::UNKNOWN, u32::MAX))
        .max_by_key(|evidence| evidence.bits)
}
