//! Whether a connection uses RESP, and where a value begins.

use super::command;
use super::resp::{self, MAX_LINE, RespReader, Token};
use crate::event::{Direction, Role};
use crate::protocol::{Detect, Input, Prefix};

/// The most starts of calls that are tried at a time.
const MAX_STARTS: usize = 16;
/// The longest name of a command that is looked for, in digits of its length.
const MAX_NAME: usize = 32;
/// The most pieces of a value that are looked at.
const MAX_PIECES: usize = 4;

/// A known command in an array is unmistakable. One in a line is only taken for a command if the first thing
/// that the server sends is a reply.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detect {
    if prefix.hints.alpn.is_some() {
        return Detect::No;
    }
    let sides = [(Direction::Transmit, prefix.transmit), (Direction::Receive, prefix.receive)];
    let mut all = Detect::No;
    for (from, input) in sides {
        let is_client = prefix.hints.role.map(|role| (role == Role::Client) == (from == Direction::Transmit));
        let other = if from == Direction::Transmit { prefix.receive } else { prefix.transmit };
        let found = match (prefix.hints.from_start, is_client) {
            (true, Some(false)) => Detect::No,
            (true, _) => start(input, other),
            (false, is_client) => middle(input, is_client),
        };
        match found {
            Detect::Yes => return Detect::Yes,
            Detect::NeedMore => all = Detect::NeedMore,
            Detect::No => {}
        }
    }
    all
}

/// Whether a connection begins with a command.
fn start(client: Input<'_>, server: Input<'_>) -> Detect {
    if client.data.is_empty() {
        return if server.data.is_empty() { Detect::NeedMore } else { Detect::No };
    }
    match starts_command(client.data) {
        Detect::No => {}
        found => return found,
    }
    let Some(end) = memchr::memchr(b'\n', client.data) else {
        // A name of a command.
        let is_word = client.data.len() < MAX_NAME && client.data.iter().all(u8::is_ascii_alphabetic);
        return if is_word && command::starts_known(client.data) { Detect::NeedMore } else { Detect::No };
    };
    let line = client.data.get(..end).unwrap_or_default();
    let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    // Words of other protocols, whose servers answer `+OK` as well.
    let common = [&b"AUTH"[..], b"QUIT", b"HELLO", b"TYPE", b"INFO", b"RESET"];
    let is_common = common.iter().any(|common| word.eq_ignore_ascii_case(common));
    if is_common
        || !command::is_known(word)
        || word.contains(&b'.')
        || memchr::memmem::find(line, b" HTTP/").is_some()
    {
        return Detect::No;
    }
    let is_answered = match (client.time(0), server.time(0)) {
        (_, None) => return Detect::NeedMore,
        (asked, answered) => asked <= answered,
    };
    if is_answered { starts_reply(server.data) } else { Detect::No }
}

/// Whether a call of a direction begins with a command, or with something that only a server sends.
fn middle(input: Input<'_>, is_client: Option<bool>) -> Detect {
    let mut all = Detect::No;
    for start in input.call_starts().take(MAX_STARTS) {
        let data = input.data.get(start..).unwrap_or_default();
        let command = if is_client == Some(false) { Detect::No } else { starts_command(data) };
        let event = if is_client == Some(true) { Detect::No } else { starts_event(data) };
        match (command, event) {
            (Detect::Yes, _) | (_, Detect::Yes) if reads_whole(data) => return Detect::Yes,
            (Detect::NeedMore, _) | (_, Detect::NeedMore) => all = Detect::NeedMore,
            _ => {}
        }
    }
    all
}

/// Whether all of the bytes can be values.
fn reads_whole(data: &[u8]) -> bool {
    let (mut reader, mut rest) = (RespReader::default(), data);
    loop {
        match reader.next(rest) {
            Ok(Some(piece)) => rest = rest.get(piece.taken..).unwrap_or_default(),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Whether bytes begin with a command that is known, in an array.
pub(super) fn starts_command(data: &[u8]) -> Detect {
    let mut rest = data;
    for kind in [b'*', b'$'] {
        match rest.first() {
            None => return Detect::NeedMore,
            Some(first) if *first != kind => return Detect::No,
            Some(_) => {}
        }
        match resp::line(rest, 12) {
            Ok(Some((head, taken))) => {
                let number = head.get(1..).and_then(resp::number);
                let is_likely =
                    number.is_some_and(|number| number > 0 && (kind == b'*' || number < MAX_NAME as u64));
                if !is_likely {
                    return Detect::No;
                }
                if kind == b'$' {
                    let size = number.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
                    return is_name(rest.get(taken..).unwrap_or_default(), size);
                }
                rest = rest.get(taken..).unwrap_or_default();
            }
            Ok(None) => {
                let digits = rest.get(1..).unwrap_or_default();
                let is_number = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'\r');
                return if is_number { Detect::NeedMore } else { Detect::No };
            }
            Err(_) => return Detect::No,
        }
    }
    Detect::No
}

/// Whether bytes begin with the name of a command of this length, and the end of its line.
fn is_name(data: &[u8], size: usize) -> Detect {
    let Some(name) = data.get(..size) else { return Detect::NeedMore };
    if !command::is_known(name) {
        return Detect::No;
    }
    match data.get(size..) {
        Some([b'\r', b'\n', ..]) => Detect::Yes,
        Some([] | [b'\r']) => Detect::NeedMore,
        _ => Detect::No,
    }
}

/// Whether bytes begin with a value that may be a reply.
pub(super) fn starts_reply(data: &[u8]) -> Detect {
    let (mut reader, mut rest) = (RespReader::default(), data);
    for _ in 0..MAX_PIECES {
        let piece = match reader.next(rest) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Detect::NeedMore,
            Err(_) => return Detect::No,
        };
        if piece.ends_value || matches!(piece.token, Token::Part(_)) {
            break;
        }
        rest = rest.get(piece.taken..).unwrap_or_default();
    }
    Detect::Yes
}

/// Whether bytes begin with what servers send without being asked.
fn starts_event(data: &[u8]) -> Detect {
    const HEADS: [&[u8]; 6] = [
        b"*3\r\n$7\r\nmessage\r\n$",
        b"*4\r\n$8\r\npmessage\r\n$",
        b"*3\r\n$8\r\nsmessage\r\n$",
        b">3\r\n$7\r\nmessage\r\n$",
        b">4\r\n$8\r\npmessage\r\n$",
        b">3\r\n$8\r\nsmessage\r\n$",
    ];
    if HEADS.iter().any(|head| data.starts_with(head)) {
        return Detect::Yes;
    }
    if HEADS.iter().any(|head| head.starts_with(data)) {
        return Detect::NeedMore;
    }
    match resp::line(data, MAX_LINE) {
        Ok(Some((line, _))) if line.starts_with(b"+") => {
            let is_monitor = super::reply::monitor_line(line.get(1..).unwrap_or_default()).is_some();
            if is_monitor { Detect::Yes } else { Detect::No }
        }
        _ => Detect::No,
    }
}
