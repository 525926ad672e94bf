//! A connection whose bytes are decoded: what is known about it, and its conversation.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::event::{
    Connection, Context, Direction, Origin, ProcessContext, Role, Socket, Thread, Tls, TlsInfo,
};
use crate::protocol::{Conversation, ExchangeKey, Hints, Protocol};

/// How long what is known of a process is used before it is copied anew: the name of its container may become
/// known late.
const REFRESH: SignedDuration = SignedDuration::from_secs(1);
/// The most exchanges of a connection whose messages are numbered.
const MAX_NUMBERED: usize = 1024;

/// Whether more bytes of a connection are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Undecided,
    /// This is, or none are, and that was said.
    Decided,
}

/// A connection whose bytes are decoded.
#[derive(Debug)]
pub(super) struct RequestConnection {
    process: ProcessContext,
    thread: Thread,
    /// When these two were copied.
    copied: Timestamp,
    id: u64,
    from_start: bool,
    partial_attach: bool,
    /// Whether it was seen from its first byte, and nothing is missing since.
    pub(super) is_gapless: bool,
    socket: Option<Socket>,
    tls: Option<Tls>,
    pub(super) conversation: Conversation,
    /// The bytes that were held when they were last added up.
    pub(super) held: usize,
    /// The bytes of all calls.
    pub(super) bytes: u64,
    /// Whether more of them are wanted.
    pub(super) interest: Interest,
    /// How many messages an exchange has had, by direction.
    numbers: BTreeMap<ExchangeKey, [u64; 2]>,
}

impl RequestConnection {
    /// The connection of a call. None if the call has none, or no thread.
    pub(super) fn new(context: &Context<'_>, protocols: &'static [&'static Protocol]) -> Option<Self> {
        let (process, thread) = context.thread()?;
        let connection = context.connection.as_ref()?;
        let hints =
            Hints { from_start: connection.from_start && !connection.partial_attach, ..Hints::default() };
        let mut new = Self {
            process: process.clone(),
            thread: *thread,
            copied: context.time,
            id: connection.id,
            from_start: connection.from_start,
            partial_attach: connection.partial_attach,
            is_gapless: hints.from_start,
            socket: None,
            tls: None,
            conversation: Conversation::new(protocols, hints),
            held: 0,
            bytes: 0,
            interest: Interest::Undecided,
            numbers: BTreeMap::new(),
        };
        new.update(context);
        Some(new)
    }

    /// Copies what a later call shows of the connection.
    pub(super) fn update(&mut self, context: &Context<'_>) {
        let Some((process, thread)) = context.thread() else { return };
        self.thread = *thread;
        if context.time.duration_since(self.copied) > REFRESH {
            self.copied = context.time;
            self.process.clone_from(process);
        }
        let Some(connection) = &context.connection else { return };
        self.partial_attach |= connection.partial_attach;
        self.is_gapless &= !connection.partial_attach;
        let hints = self.conversation.hints_mut();
        if let Some(socket) = connection.socket.as_deref()
            && self.socket.as_ref() != Some(socket)
        {
            // What is not known of the socket, the messages may have shown.
            hints.role = socket.role.or(hints.role);
            hints.local_port = socket.local.as_ref().and_then(|end| end.port);
            hints.peer_port = socket.peer.as_ref().and_then(|end| end.port);
            self.socket = Some(socket.clone());
        }
        if let Some(TlsInfo { tls, is_first }) = &connection.tls
            && (*is_first || self.tls.is_none())
        {
            hints.alpn.clone_from(&tls.next_protocol);
            hints.server_name.clone_from(&tls.server_name);
            self.tls = Some(tls.clone().into_owned());
        }
    }

    /// The role of the process. The socket may not show it, but messages do.
    pub(super) fn role(&self) -> Option<Role> {
        self.socket.as_ref().and_then(|socket| socket.role).or_else(|| self.conversation.role())
    }

    /// The context of what happened on the connection.
    pub(super) fn context(&self, time: Timestamp) -> Context<'_> {
        let tls = self.tls.as_ref().map(|tls| TlsInfo { tls: Cow::Borrowed(tls), is_first: false });
        Context {
            time,
            origin: Origin::Thread { process: Cow::Borrowed(&self.process), thread: self.thread },
            connection: Some(Connection {
                id: self.id,
                from_start: self.from_start,
                partial_attach: self.partial_attach,
                socket: self.socket.as_ref().map(Cow::Borrowed),
                tls,
            }),
        }
    }

    /// The number of the next message of an exchange. None if too many exchanges have messages.
    pub(super) fn next_number(&mut self, key: &ExchangeKey, direction: Direction) -> Option<u64> {
        if self.numbers.len() >= MAX_NUMBERED && !self.numbers.contains_key(key) {
            return None;
        }
        let [transmitted, received] = self.numbers.entry(key.clone()).or_default();
        let number = match direction {
            Direction::Transmit => transmitted,
            Direction::Receive => received,
        };
        *number += 1;
        Some(*number)
    }

    /// How many messages of an exchange were sent and received.
    pub(super) fn numbers(&self, key: &ExchangeKey) -> Option<[u64; 2]> {
        self.numbers.get(key).copied()
    }

    /// Forgets the numbers of an exchange that has ended. Returns how many messages were sent and received.
    pub(super) fn end_numbers(&mut self, key: &ExchangeKey) -> Option<[u64; 2]> {
        self.numbers.remove(key)
    }
}
