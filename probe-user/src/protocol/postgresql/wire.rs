//! The form of messages: a tag, a length that counts itself, a body.

use crate::protocol::{Desync, Detect};

/// The bytes before a body.
pub(super) const HEAD: usize = 5;
/// The longest message.
const MAX_LENGTH: u32 = 1 << 30;
/// The longest message without a tag (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_STARTUP: u32 = 10_000;
/// What clients ask for before they name a user.
pub(super) const SSL_REQUEST: u32 = 80_877_103;
pub(super) const GSS_ENCRYPTION_REQUEST: u32 = 80_877_104;
pub(super) const CANCEL_REQUEST: u32 = 80_877_102;
/// The version 3.9999, by which clients test whether a server negotiates.
const TEST_VERSION: u32 = 0x0003_270f;

/// The head of a message with a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaggedHead {
    pub(super) tag: u8,
    /// The length of the body.
    pub(super) body: usize,
}

/// The part of a message that is passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub(super) left: u64,
    /// The unit that the message belongs to.
    pub(super) unit: Option<u64>,
}

/// Which end sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// Reads the head of a message. None if it is not there yet.
pub(super) fn head(data: &[u8], sender: Sender) -> Result<Option<TaggedHead>, Desync> {
    let Some((&tag, rest)) = data.split_first() else { return Ok(None) };
    let tags: &[u8] = match sender {
        Sender::Client => b"QPBDECSHFXdcfp",
        Sender::Server => b"RKSNAZTDCIE123nstGHWdcVv",
    };
    if !tags.contains(&tag) {
        return Err(Desync("an unknown message"));
    }
    let Some(length) = rest.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
        return Ok(None);
    };
    let fits = match (sender, tag) {
        (Sender::Client, b'S' | b'H' | b'X' | b'c')
        | (Sender::Server, b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c') => length == 4,
        (Sender::Server, b'Z') => length == 5,
        (Sender::Client, b'D' | b'C') => length >= 6,
        _ => (4..=MAX_LENGTH).contains(&length),
    };
    if !fits {
        return Err(Desync("an impossible length"));
    }
    let body = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(4);
    Ok(Some(TaggedHead { tag, body }))
}

/// The length and the code of a message without a tag. None if it is not there yet.
pub(super) fn startup_head(data: &[u8]) -> Option<(u32, u32)> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let code = rest.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*length), u32::from_be_bytes(*code)))
}

/// Whether a connection begins as one of PostgreSQL does.
pub(super) fn startup(data: &[u8]) -> Detect {
    let Some((length, code)) = startup_head(data) else {
        return if b"\0\0".starts_with(data.get(..2).unwrap_or(data)) {
            Detect::NeedMore
        } else {
            Detect::No
        };
    };
    let fits = match code {
        SSL_REQUEST | GSS_ENCRYPTION_REQUEST => length == 8,
        CANCEL_REQUEST => (16..=268).contains(&length),
        _ => {
            if !is_version(code) || !(9..=MAX_STARTUP).contains(&length) {
                return Detect::No;
            }
            // Version 3.0 is also what a Kafka client asks for metadata with, followed by a number.
            return match data.get(8) {
                None => Detect::NeedMore,
                Some(first) if first.is_ascii_alphabetic() || *first == b'_' => Detect::Yes,
                Some(_) => Detect::No,
            };
        }
    };
    if fits { Detect::Yes } else { Detect::No }
}

/// Whether a code is a version of the protocol that this decoder reads.
pub(super) fn is_version(code: u32) -> bool {
    (0x0003_0000..=0x0003_000f).contains(&code) || code == TEST_VERSION
}

/// The text up to the next NUL, and what follows it.
pub(super) fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, rest) = data.split_at_checked(data.iter().position(|byte| *byte == 0)?)?;
    Some((text, rest.get(1..)?))
}

/// The parameters of a StartupMessage after its version.
pub(super) fn parameters(mut data: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (name, rest) = text(data)?;
        let (value, rest) = text(rest)?;
        data = rest;
        (!name.is_empty()).then_some((name, value))
    })
}
