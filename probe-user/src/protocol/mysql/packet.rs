//! Packets: a length of three bytes (little endian), a sequence number, a payload.

use crate::protocol::Detect;
use crate::protocol::database::sql::begins_statement;

/// The bytes before a payload.
pub(super) const HEAD: usize = 4;
/// The length of a packet that another one continues.
pub(super) const FULL: usize = 0xff_ffff;
/// The length of a packet that is the end of columns or rows.
pub(super) const EOF_LENGTH: usize = 5;
/// The heads that have to follow each other to show where a response begins.
const CHAIN: usize = 3;

/// The head of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketHead {
    pub(super) length: usize,
    pub(super) sequence: u8,
}

impl PacketHead {
    /// Reads a head. None if it is not there yet.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        let &[a, b, c, sequence] = data.first_chunk::<HEAD>()?;
        let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        Some(Self { length, sequence })
    }
}

/// The part of a packet that is passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketRest {
    pub(super) left: u64,
    pub(super) exchange: Option<u64>,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    /// `CLIENT_MYSQL`: not set between a client and a server of MariaDB.
    pub(super) const OF_MYSQL: u64 = 1;
    pub(super) const CONNECT_WITH_DB: u64 = 1 << 3;
    pub(super) const COMPRESS: u64 = 1 << 5;
    const PROTOCOL_41: u64 = 1 << 9;
    pub(super) const SSL: u64 = 1 << 11;
    pub(super) const SECURE_CONNECTION: u64 = 1 << 15;
    pub(super) const LENGTH_ENCODED_AUTH: u64 = 1 << 21;
    pub(super) const DEPRECATE_EOF: u64 = 1 << 24;
    pub(super) const OPTIONAL_METADATA: u64 = 1 << 25;
    pub(super) const ZSTD: u64 = 1 << 26;
    pub(super) const QUERY_ATTRIBUTES: u64 = 1 << 27;
    /// `MARIADB_CLIENT_CACHE_METADATA`
    pub(super) const CACHE_METADATA: u64 = 1 << 36;

    pub(super) fn has(self, capability: u64) -> bool {
        self.0 & capability != 0
    }
}

/// A number of variable length, and what follows it.
pub(super) fn number(data: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = data.split_first()?;
    let width = match first {
        0..=0xfa => return Some((first.into(), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let (bytes, rest) = rest.split_at_checked(width)?;
    Some((bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)), rest))
}

/// The text up to the next NUL, and what follows it.
pub(super) fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, rest) = data.split_at_checked(data.iter().position(|byte| *byte == 0)?)?;
    Some((text, rest.get(1..)?))
}

pub(super) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

/// Whether a server begins a connection with these bytes: a greeting of version 10.
pub(super) fn greets(data: &[u8]) -> Detect {
    let Some(head) = PacketHead::read(data) else {
        return if data.get(1..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0)) {
            Detect::NeedMore
        } else {
            Detect::No
        };
    };
    if head.sequence != 0 || !(30..=512).contains(&head.length) {
        return Detect::No;
    }
    let payload = data.get(HEAD..).unwrap_or_default();
    match payload.split_first() {
        None => Detect::NeedMore,
        Some((10, version)) => {
            let length = version.iter().take_while(|byte| byte.is_ascii_graphic()).count();
            let is_version = version.first().is_none_or(u8::is_ascii_digit);
            match version.get(length) {
                Some(0) if is_version && length >= 3 => Detect::Yes,
                None if is_version && length < 64 => Detect::NeedMore,
                _ => Detect::No,
            }
        }
        Some(_) => Detect::No,
    }
}

/// Whether a client begins a connection with these bytes: its capabilities, and 19 zeros.
pub(super) fn logs_in(data: &[u8]) -> Detect {
    let Some(head) = PacketHead::read(data) else { return Detect::NeedMore };
    if !matches!(head.sequence, 1 | 2) || !(32..=64 * 1024).contains(&head.length) {
        return Detect::No;
    }
    let payload = data.get(HEAD..).unwrap_or_default();
    let zeros = payload.get(9..payload.len().min(28)).unwrap_or_default();
    if zeros.iter().any(|byte| *byte != 0) {
        return Detect::No;
    }
    match u32_at(payload, 0) {
        Some(flags) if u64::from(flags) & Capabilities::PROTOCOL_41 == 0 => Detect::No,
        Some(_) if zeros.len() == 19 => Detect::Yes,
        _ => Detect::NeedMore,
    }
}

/// Whether a command of a client begins here.
pub(super) fn asks(data: &[u8]) -> Detect {
    let Some(head) = PacketHead::read(data) else { return Detect::NeedMore };
    if head.sequence != 0 || head.length == 0 || head.length > 1 << 20 {
        return Detect::No;
    }
    let payload = data.get(HEAD..).unwrap_or_default();
    let Some((&command, rest)) = payload.split_first() else { return Detect::NeedMore };
    let (is_there, fits) = match command {
        0x03 | 0x16 => {
            let text = rest.strip_prefix(&[0, 1]).unwrap_or(rest);
            (rest.len() >= head.length.min(32) - 1, head.length > 4 && begins_statement(text))
        }
        // The number of iterations is always 1.
        0x17 => (rest.len() >= 9, head.length >= 10 && u32_at(rest, 5) == Some(1)),
        0x01 | 0x0e | 0x1f | 0x09 => (true, head.length == 1),
        0x19 | 0x1a => (rest.len() >= 4, head.length == 5),
        _ => return Detect::No,
    };
    match (is_there, fits) {
        (true, true) => Detect::Yes,
        (false, _) => Detect::NeedMore,
        (true, false) => Detect::No,
    }
}

/// Whether a response of a server begins here: a packet that says OK or an error, or a chain of packets.
pub(super) fn answers(data: &[u8]) -> Detect {
    let Some(first) = PacketHead::read(data) else { return Detect::NeedMore };
    let payload = data.get(HEAD..).unwrap_or_default();
    if first.sequence != 1 || first.length == 0 || first.length > 1 << 16 {
        return Detect::No;
    }
    match payload.first() {
        None => return Detect::NeedMore,
        Some(0 | 0xff) if payload.len() < first.length.min(16) => return Detect::NeedMore,
        Some(0) if first.length >= 7 && ok_fits(payload.get(..first.length).unwrap_or(payload)) => {
            return Detect::Yes;
        }
        Some(0xff) if payload.get(3) == Some(&b'#') && first.length >= 9 => return Detect::Yes,
        Some(_) if first.length > 9 && payload.first() != Some(&0) => return Detect::No,
        Some(_) => {}
    }
    let (mut rest, mut sequence) = (data, 1);
    for _ in 0..CHAIN {
        let Some(head) = PacketHead::read(rest) else { return Detect::NeedMore };
        if head.sequence != sequence || head.length == 0 || head.length > 1 << 16 {
            return Detect::No;
        }
        sequence = sequence.wrapping_add(1);
        rest = match rest.get(HEAD + head.length..) {
            Some(rest) => rest,
            None => return Detect::NeedMore,
        };
    }
    Detect::Yes
}

/// Whether a packet that begins as OK does is one: two numbers, and the state of the server.
fn ok_fits(payload: &[u8]) -> bool {
    let numbers = payload.get(1..).and_then(number).and_then(|(_, rest)| number(rest));
    let Some((_, rest)) = numbers else { return false };
    // The bits that MySQL and MariaDB have defined; most sessions have autocommit, or a transaction.
    rest.len() >= 4 && u16_at(rest, 0).is_some_and(|status| status & 3 != 0)
}
