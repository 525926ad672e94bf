//! Connections of any bytes, with gaps: decoders end, hold little, and find the same messages however the
//! bytes are cut.

use std::env;

use anyhow::{Context, Result, bail, ensure};
use ctrace::event::{Direction, FieldValue, Partial, Role};
use ctrace::protocol::{
    ALL, CallMark, Chunk, Conversation, Gap, GapCause, Hints, Message, MessageKind, Messages, Protocol,
};
use jiff::Timestamp;

/// The name of the protocol to fuzz, in the environment.
pub const PROTOCOL: &str = "CTRACE_FUZZ_PROTOCOL";
/// The bytes of each body that are kept.
const BODY: usize = 1000;
/// What a conversation may hold: what waits in both directions, and what the decoder has.
const MOST_HELD: usize = 8 << 20;

/// The protocol that the environment names.
pub fn protocol() -> Result<&'static Protocol> {
    let name = env::var(PROTOCOL).with_context(|| format!("{PROTOCOL} names no protocol"))?;
    let protocol = ALL.iter().find(|protocol| protocol.name == name);
    protocol.copied().with_context(|| format!("there is no protocol {name}"))
}

/// Decodes a connection. The first byte of an input says what is known of it, and the second one how its
/// calls are cut. Each of its parts is two bytes, of which the first one has the direction and whether it is
/// a gap, and the second one a length, and the bytes. An error is a finding.
pub fn run(protocol: &'static Protocol, input: &[u8]) -> Result<()> {
    let &[known, split, ref parts @ ..] = input else { return Ok(()) };
    let hints = Hints {
        role: match known & 3 {
            0 => None,
            1 => Some(Role::Server),
            _ => Some(Role::Client),
        },
        from_start: known & 4 != 0,
        extensions: (known & 8 != 0).then(|| "permessage-deflate".to_owned()),
        ..Hints::default()
    };
    let conversation = || {
        if known & 16 == 0 {
            Conversation::of(protocol, hints.clone())
        } else {
            Conversation::new(ALL, hints.clone())
        }
    };
    let whole = messages(conversation(), parts, usize::MAX)?;
    // What a conversation is detected by depends on how much of it is there.
    if known & 16 == 0 {
        let cut = messages(conversation(), parts, usize::from(split).max(1))?;
        for (whole, cut) in whole.iter().zip(&cut) {
            let (left, right) = (whole.iter().map(Some).chain([None]), cut.iter().map(Some).chain([None]));
            if let Some((left, right)) = left.zip(right).find(|(left, right)| left != right) {
                bail!("cut after each {split}: {right:#?}\ninstead of: {left:#?}");
            }
        }
    }
    Ok(())
}

/// What distinguishes a message.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    protocol: &'static str,
    kind: MessageKind,
    key: Option<String>,
    fields: Vec<(&'static str, FieldValue)>,
    body: Vec<u8>,
    body_length: u64,
    length: u64,
    partial: Partial,
}

impl Found {
    fn of(message: &Message) -> Self {
        Self {
            protocol: message.protocol,
            kind: message.kind,
            key: message.key().map(|key| key.to_string()),
            fields: message.fields.iter().map(|(field, value)| (field.path, value.clone())).collect(),
            body: message.body().0.into_owned(),
            body_length: message.body_length,
            length: message.length,
            partial: message.partial,
        }
    }
}

/// The messages of each direction.
fn messages(mut conversation: Conversation, parts: &[u8], split: usize) -> Result<[Vec<Found>; 2]> {
    let mut out = Messages::new(BODY);
    let mut found = [Vec::new(), Vec::new()];
    let mut offsets = [0_u64; 2];
    let mut rest = parts;
    let mut call = 0_u64;
    while let [head, length, after @ ..] = rest {
        let direction = if head & 1 == 0 { Direction::Transmit } else { Direction::Receive };
        let [sent, received] = &mut offsets;
        let offset = if direction == Direction::Transmit { sent } else { received };
        rest = after;
        if head & 0xe == 0xe {
            let length = u64::from(*length).max(1) << (head >> 4);
            conversation.gap(direction, Gap { offset: *offset, length, cause: GapCause::Lost }, &mut out);
            *offset += length;
        } else {
            let length = usize::from(*length).min(after.len());
            let (data, after) = after.split_at(length);
            rest = after;
            call += 1;
            for (index, data) in data.chunks(split).enumerate() {
                let time = Timestamp::from_second(call.cast_signed())?;
                let mark = CallMark { offset: *offset, call, time, starts_call: index == 0 };
                conversation.data(direction, &Chunk { offset: *offset, data, mark }, &mut out);
                *offset += data.len() as u64;
            }
        }
        ensure!(conversation.held_bytes() <= MOST_HELD, "{} bytes are held", conversation.held_bytes());
        collect(&mut out, &mut found)?;
    }
    conversation.end(&mut out);
    collect(&mut out, &mut found)?;
    Ok(found)
}

fn collect(out: &mut Messages, [sent, received]: &mut [Vec<Found>; 2]) -> Result<()> {
    for message in out.drain() {
        let found = Found::of(&message);
        ensure!(found.body.len() <= BODY && found.body_length >= found.body.len() as u64, "{message:?}");
        let all = if message.direction == Direction::Transmit { &mut *sent } else { &mut *received };
        all.push(found);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_taken() -> Result<()> {
        for protocol in ALL {
            for known in 0..32 {
                run(protocol, &[known])?;
                run(protocol, &[[known, 1].as_slice(), b"\0\x12GET / HTTP/1.1\r\n\r\n\x0e\x05"].concat())?;
                run(
                    protocol,
                    &[[known, 2].as_slice(), b"\0\x02\x89\x80\x01\x05\x81\x03one\x01\x02\xc1\0"].concat(),
                )?;
                run(protocol, &[[known, 3].as_slice(), &[0xff; 256]].concat())?;
                run(protocol, &(known..=255).cycle().take(4096).collect::<Vec<u8>>())?;
            }
        }
        Ok(())
    }
}
