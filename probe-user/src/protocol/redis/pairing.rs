//! Which command a reply answers.
//!
//! Commands have no ids: replies come in the order of the commands, so pairing is counting. After a loss of
//! bytes, and on a connection that was joined in the middle, the count is unknown, and pairs are only formed
//! again when every command was answered. What shows it is a command that is sent after nothing was
//! transferred for [`IDLE_PAUSE`] after a reply:
//!
//! - by a client that was never seen to send a command before it had the reply to the previous one, if all
//!   commands that were seen are answered,
//! - by any other client, if the same was so at the previous such moment, with the same number of commands
//!   outstanding as far as they were counted, and never with fewer. A client that waits for a reply to a
//!   command that was not seen, and sends others behind it, gets none until then.
//!
//! Neither counts after a command that may block for long.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::{Hints, Message};

/// The most commands that wait for their replies. Clients send tens of thousands at once.
const MAX_PENDING: usize = 65_536;
/// A client that is silent for this long after a reply has no command outstanding.
pub(super) const IDLE_PAUSE: Duration = Duration::from_millis(100);

/// What a command is answered by, and what that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    /// One value.
    Value,
    /// The same, also while the client is subscribed.
    Ping,
    /// The same, and the connection uses another database then.
    Select(u64),
    Multi,
    Exec,
    Discard,
    Reset,
    /// A line, and what other clients do from then on.
    Monitor,
    /// A line, and a stream in another form from then on.
    Replication,
    /// A confirmation of each channel: so many, or of each that the client has subscribed to.
    Confirmations {
        kind: Subscription,
        count: Option<u64>,
    },
}

/// What clients subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    Channels,
    Patterns,
    Shards,
}

/// A command that was not answered yet.
#[derive(Debug)]
pub(super) struct PendingCommand {
    pub(super) id: u64,
    pub(super) time: Timestamp,
    pub(super) expects: Expects,
    /// The first of several values by which it is answered.
    pub(super) response: Option<Box<Message>>,
}

/// What matters of a command that is sent.
#[derive(Debug)]
pub(super) struct SentCommand {
    pub(super) time: Timestamp,
    pub(super) expects: Expects,
    /// Whether its reply may come much later.
    pub(super) may_block: bool,
}

/// The replies that were seen when a command is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepliesSeen {
    /// All are complete.
    Complete,
    /// There are bytes of which it is unknown what belongs to them.
    UnderWay,
}

/// Whether a reply has its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyAnswer {
    /// It answers the first pending command.
    First,
    /// Its command was not seen yet.
    Wait,
    /// That cannot be determined.
    Unknown,
}

/// The pairing of the commands and replies of a connection.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub(super) struct CommandPairing {
    /// Whether all commands and replies were counted.
    is_exact: bool,
    /// The number of commands, which is the id of the last one.
    commands: u64,
    pending: VecDeque<PendingCommand>,
    /// Commands without replies since the last loss, less the replies to those before it.
    outstanding: i64,
    /// The same at the last moment at which the connection may have been idle.
    outstanding_when_quiet: Option<i64>,
    /// Whether no reply was seen since the connection was joined.
    may_miss_reply: bool,
    last_command: Option<Timestamp>,
    pipelines: bool,
    may_block: bool,
    /// Whether a reply is complete, and neither a command nor a gap has followed.
    is_settled: bool,
    last_byte: Option<Timestamp>,
    /// When the reply began whose command was not seen yet.
    waiting_since: Option<Timestamp>,
    /// When the connection was taken for idle, until a later reply confirms it.
    idle_since: Option<Timestamp>,
}

impl CommandPairing {
    pub(super) fn new(hints: &Hints) -> Self {
        Self {
            is_exact: hints.from_start,
            commands: 0,
            pending: VecDeque::new(),
            outstanding: 0,
            outstanding_when_quiet: None,
            may_miss_reply: !hints.from_start,
            last_command: None,
            pipelines: false,
            may_block: false,
            is_settled: false,
            last_byte: None,
            waiting_since: None,
            idle_since: None,
        }
    }

    pub(super) fn size(&self) -> usize {
        let responses = self.pending.iter().take(8).filter_map(|pending| pending.response.as_ref());
        self.pending.capacity() * size_of::<PendingCommand>() + responses.map(|it| it.size()).sum::<usize>()
    }

    pub(super) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The command that the next reply answers, if that is known.
    pub(super) fn first(&mut self) -> Option<&mut PendingCommand> {
        self.pending.front_mut()
    }

    /// A command was sent. Returns its id. None if its reply will not be known.
    pub(super) fn command(&mut self, sent: SentCommand, replies: RepliesSeen) -> Option<u64> {
        let SentCommand { time, expects, may_block } = sent;
        if self.waiting_since.take().is_some_and(|since| since < time) {
            // Nothing is answered before it is asked: the count is wrong.
            self.lose();
        }
        if self.is_exact {
            self.pipelines |= !self.pending.is_empty();
        } else {
            let is_next_call = self.last_command.is_some_and(|last| time > last);
            if self.may_miss_reply && self.outstanding == 1 && is_next_call {
                // The call that receives the first one may have waited for it when the trace began, and is
                // not seen.
                (self.outstanding, self.may_miss_reply) = (0, false);
            }
            self.pipelines |= self.outstanding > 0;
            if replies == RepliesSeen::Complete {
                self.find_idle(time);
            }
        }
        self.commands = self.commands.saturating_add(1);
        (self.is_settled, self.may_block, self.last_command) = (false, may_block, Some(time));
        if self.is_exact && self.pending.len() >= MAX_PENDING {
            self.lose();
        }
        if !self.is_exact {
            self.outstanding = self.outstanding.saturating_add(1);
            return None;
        }
        let id = self.commands;
        self.pending.push_back(PendingCommand { id, time, expects, response: None });
        Some(id)
    }

    /// A command was sent that is not answered. Returns its id.
    pub(super) fn command_without_reply(&mut self) -> u64 {
        self.commands = self.commands.saturating_add(1);
        self.commands
    }

    /// Checks whether nothing was outstanding when a command was sent.
    fn find_idle(&mut self, time: Timestamp) {
        let pause = self.last_byte.and_then(|last| Duration::try_from(time.duration_since(last)).ok());
        let is_quiet = self.is_settled && pause.is_some_and(|pause| pause >= IDLE_PAUSE);
        if !is_quiet || self.may_block {
            return;
        }
        let previous = self.outstanding_when_quiet;
        self.outstanding_when_quiet =
            Some(previous.map_or(self.outstanding, |previous| previous.min(self.outstanding)));
        let is_idle = if self.pipelines { previous == Some(self.outstanding) } else { self.outstanding <= 0 };
        if is_idle {
            self.is_exact = true;
            self.pending.clear();
            self.idle_since = Some(time);
        }
    }

    /// A reply begins.
    pub(super) fn reply(&mut self, time: Timestamp) -> ReplyAnswer {
        self.may_miss_reply = false;
        if self.idle_since.take().is_some_and(|since| time < since) {
            // Its record came late: the connection was not idle.
            self.lose();
        }
        if !self.is_exact {
            return ReplyAnswer::Unknown;
        }
        match self.pending.front() {
            None => {
                self.waiting_since = Some(time);
                ReplyAnswer::Wait
            }
            Some(first) if time < first.time => {
                self.lose();
                ReplyAnswer::Unknown
            }
            Some(_) => ReplyAnswer::First,
        }
    }

    /// A command is answered. Returns it, if it is known.
    pub(super) fn answered(&mut self, time: Timestamp) -> Option<PendingCommand> {
        self.is_settled = true;
        if !self.is_exact {
            self.outstanding = self.outstanding.saturating_sub(1);
            return None;
        }
        let answered = self.pending.pop_front();
        self.pipelines |= self.pending.front().is_some_and(|next| next.time < time);
        answered
    }

    /// Bytes were transferred, whatever they are.
    pub(super) fn saw_bytes(&mut self, time: Timestamp) {
        self.last_byte = self.last_byte.max(Some(time));
    }

    /// Commands or replies may be missing.
    pub(super) fn lose(&mut self) {
        self.is_exact = false;
        self.pending.clear();
        (self.outstanding, self.outstanding_when_quiet) = (0, None);
        (self.is_settled, self.waiting_since, self.idle_since) = (false, None, None);
    }
}
