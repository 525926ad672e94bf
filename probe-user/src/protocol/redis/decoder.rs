//! The bytes of a connection → commands, replies and events.

use jiff::Timestamp;

use super::REDIS;
use super::command::{self, Arguments};
use super::detect::{starts_command, starts_reply};
use super::pairing::{
    CommandPairing, Expects, PendingCommand, RepliesSeen, ReplyAnswer, SentCommand, Subscription,
};
use super::reply::{self, Reply, error_parts, monitor_line, shown_word};
use super::resp::{self, MAX_LINE, RespPiece, RespReader, Token};
use crate::event::{Direction, FieldValue, Role, Statement, StatementPart};
use crate::protocol::database::{
    ERROR_TYPE, NAMESPACE, OPERATION, QUERY, RETURNED_ROWS, STATUS, STATUS_MESSAGE, SYSTEM, TRANSACTION,
};
use crate::protocol::{
    Decoder, Desync, Detect, Gap, GapCause, Hints, Input, Message, MessageKind, Messages, Step,
};

/// Decodes a connection.
#[derive(Debug)]
pub(super) struct RedisDecoder {
    /// The direction of commands. None until it is known.
    client: Option<Direction>,
    commands: CommandSide,
    replies: ReplySide,
    pairing: CommandPairing,
    session: Session,
    /// Whether a replica has asked for the stream of changes, which has another form.
    replicates: bool,
}

/// The direction of commands.
#[derive(Debug)]
struct CommandSide {
    /// Whether a command is searched for, because bytes are missing.
    is_searching: bool,
    /// Whether what was read last is no part of a command.
    is_broken: bool,
    reader: RespReader,
    arguments: Arguments,
    open: Option<OpenCommand>,
    /// Whether the client has turned replies off.
    replies: ReplyMode,
    /// Whether a transaction is being put together.
    in_transaction: bool,
}

/// A command that is being read.
#[derive(Clone, Copy, Debug)]
struct OpenCommand {
    first: Timestamp,
    last: Timestamp,
    length: u64,
    missing: u64,
}

/// Which commands are answered (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    /// All but the next one.
    SkipsNext,
}

/// The direction of replies.
#[derive(Debug)]
struct ReplySide {
    is_searching: bool,
    reader: RespReader,
    open: Option<OpenReply>,
}

/// A reply that is being read.
#[derive(Debug)]
struct OpenReply {
    message: Message,
    class: ReplyClass,
    contents: Reply,
}

/// What a value of the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyClass {
    /// It answers the first pending command.
    Answer,
    /// It confirms a subscription, for the first pending command.
    Confirmation,
    /// It answers a command that is not known.
    Unpaired,
    Event,
}

/// What is known of the state of the connection at the server.
#[derive(Debug)]
struct Session {
    /// The number of the database.
    database: Option<u64>,
    transaction: Option<Transaction>,
    /// Whether the transaction has a command that changes the database or the subscriptions.
    has_queued_change: bool,
    /// How many channels and patterns the client has subscribed to.
    channels: Option<u64>,
    patterns: Option<u64>,
    shards: Option<u64>,
}

/// The state of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Queueing,
    Failed,
}

impl Session {
    fn new() -> Self {
        Self {
            database: Some(0),
            transaction: Some(Transaction::None),
            has_queued_change: false,
            channels: Some(0),
            patterns: Some(0),
            shards: Some(0),
        }
    }

    fn unknown() -> Self {
        Self {
            database: None,
            transaction: None,
            has_queued_change: false,
            channels: None,
            patterns: None,
            shards: None,
        }
    }

    /// Whether the client may have subscribed to something.
    fn may_be_subscribed(&self) -> bool {
        [self.channels, self.patterns, self.shards].iter().any(|count| *count != Some(0))
    }

    fn subscriptions(&mut self, kind: Subscription) -> &mut Option<u64> {
        match kind {
            Subscription::Channels => &mut self.channels,
            Subscription::Patterns => &mut self.patterns,
            Subscription::Shards => &mut self.shards,
        }
    }

    /// A subscription was confirmed, with the number of those that there are now: of channels and patterns
    /// together, or of shard channels.
    fn confirm(&mut self, kind: Subscription, count: u64) {
        match kind {
            Subscription::Shards => self.shards = Some(count),
            _ if count == 0 => (self.channels, self.patterns) = (Some(0), Some(0)),
            Subscription::Channels => {
                self.channels = self.patterns.and_then(|patterns| count.checked_sub(patterns));
            }
            Subscription::Patterns => {
                self.patterns = self.channels.and_then(|channels| count.checked_sub(channels));
            }
        }
    }
}

impl RedisDecoder {
    pub(super) fn new(hints: &Hints) -> Self {
        let is_searching = !hints.from_start;
        Self {
            client: hints.role.map(client_direction),
            commands: CommandSide {
                is_searching,
                is_broken: false,
                reader: RespReader::default(),
                arguments: Arguments::default(),
                open: None,
                replies: ReplyMode::On,
                in_transaction: false,
            },
            replies: ReplySide { is_searching, reader: RespReader::default(), open: None },
            pairing: CommandPairing::new(hints),
            session: if hints.from_start { Session::new() } else { Session::unknown() },
            replicates: false,
        }
    }

    fn step(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let client = match self.client {
            Some(client) => client,
            None => match find_client(input) {
                Detect::Yes => *self.client.insert(from),
                Detect::No => *self.client.insert(from.other()),
                Detect::NeedMore => return Ok(Step::More),
            },
        };
        if from == client { self.command_step(input, out) } else { self.reply_step(input, out) }
    }

    /// Reads a piece of a command.
    fn command_step(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if self.replicates {
            return Ok(Step::Skipped(input.data.len()));
        }
        let side = &mut self.commands;
        if side.is_broken {
            return Err(Desync("no command"));
        }
        if side.is_searching {
            if let Some(step) = search(input, starts_command) {
                return Ok(step);
            }
            side.is_searching = false;
        }
        if side.open.is_none() && !input.data.starts_with(b"*") {
            return self.inline_command(input, out);
        }
        let Some(piece) = side.reader.next(input.data)? else { return Ok(Step::More) };
        let time = input.time(piece.taken.saturating_sub(1)).unwrap_or_default();
        let first = || input.time(0).unwrap_or(time);
        let open = side.open.get_or_insert_with(|| {
            side.arguments.clear();
            OpenCommand { first: first(), last: time, length: 0, missing: 0 }
        });
        match (piece.depth, piece.token) {
            (0, Token::Aggregate { kind: b'*', length: Some(_) } | Token::Null) | (1, Token::StringEnd) => {}
            (1, Token::String { kind: b'$', length: Some(_) }) => side.arguments.begin(),
            (1, Token::Part(part)) => side.arguments.add(part),
            _ => {
                side.is_broken = true;
                return Err(Desync("no command"));
            }
        }
        open.length = open.length.saturating_add(piece.taken as u64);
        open.last = time;
        if piece.ends_value
            && let Some(open) = side.open.take()
        {
            self.command(open, out);
        }
        Ok(Step::Taken(piece.taken))
    }

    /// Reads a command in one line, as people type it.
    fn inline_command(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let within = input.data.get(..MAX_LINE).unwrap_or(input.data);
        let Some(end) = memchr::memchr(b'\n', within) else {
            return if within.len() < MAX_LINE { Ok(Step::More) } else { Err(Desync("a line without end")) };
        };
        let line = within.get(..end).unwrap_or_default();
        let words = reply::words(line).ok_or(Desync("no command"))?;
        let taken = end + 1;
        let Some(name) = words.first() else { return Ok(Step::Taken(taken)) };
        if !command::is_known(name) {
            return Err(Desync("no command"));
        }
        let last = input.time(end).unwrap_or_default();
        let first = input.time(0).unwrap_or(last);
        self.commands.arguments.clear();
        for word in &words {
            self.commands.arguments.begin();
            self.commands.arguments.add(word);
        }
        self.command(OpenCommand { first, last, length: taken as u64, missing: 0 }, out);
        Ok(Step::Taken(taken))
    }

    /// A command is complete.
    fn command(&mut self, open: OpenCommand, out: &mut Messages) {
        let side = &mut self.commands;
        if side.arguments.count() == 0 {
            // Servers pass over an empty command.
            return;
        }
        let mut message = open.message(self.client.unwrap_or(Direction::Transmit), &side.arguments);
        let expects = expects(&side.arguments);
        let is_answered = side.is_answered();
        match expects {
            Expects::Multi => side.in_transaction = true,
            Expects::Exec | Expects::Discard | Expects::Reset => side.in_transaction = false,
            _ => {}
        }
        if !is_answered {
            message.is_one_way = true;
            message.id = Some(self.pairing.command_without_reply());
            // What it changes is not confirmed.
            self.session = Session::unknown();
            if side.in_transaction {
                self.lose();
            }
            self.pairing.saw_bytes(open.last);
            return out.push(message);
        }
        self.replicates = expects == Expects::Replication;
        let may_block = may_block(&side.arguments);
        let sent = SentCommand { time: open.first, expects, may_block };
        message.id = self.pairing.command(sent, self.replies.seen());
        self.pairing.saw_bytes(open.last);
        out.push(message);
    }

    /// Reads a piece of a reply.
    fn reply_step(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if self.replicates && self.replies.open.is_none() && self.pairing.first().is_none() {
            return Ok(Step::Skipped(input.data.len()));
        }
        if self.pairing.first().is_some_and(|first| first.expects == Expects::Replication)
            && self.replies.open.is_none()
            && !matches!(input.data.first(), Some(b'+' | b'-'))
        {
            // SYNC is answered by the contents of the database, in no form of RESP.
            self.pairing.answered(input.time(0).unwrap_or_default());
            return Ok(Step::Skipped(input.data.len()));
        }
        if self.replies.is_searching {
            if let Some(step) = search(input, starts_reply) {
                return Ok(step);
            }
            self.replies.is_searching = false;
        }
        if self.replies.open.is_none() {
            let Some(class) = self.classify(input)? else { return Ok(Step::More) };
            let first = input.time(0).unwrap_or_default();
            let class = match class {
                ReplyClass::Event => class,
                _ => match self.pairing.reply(first) {
                    ReplyAnswer::First => class,
                    ReplyAnswer::Wait => return Ok(Step::More),
                    ReplyAnswer::Unknown => ReplyClass::Unpaired,
                },
            };
            self.replies.open = Some(self.open_reply(class, first));
        }
        let Some(piece) = self.replies.reader.next(input.data)? else { return Ok(Step::More) };
        let time = input.time(piece.taken.saturating_sub(1)).unwrap_or_default();
        self.pairing.saw_bytes(time);
        if let Some(open) = &mut self.replies.open {
            open.add(&piece, time);
        }
        if piece.ends_value
            && let Some(open) = self.replies.open.take()
        {
            self.close_reply(open, out);
        }
        Ok(Step::Taken(piece.taken))
    }

    /// What the value is that begins here. None if more bytes are needed.
    fn classify(&mut self, input: Input<'_>) -> Result<Option<ReplyClass>, Desync> {
        let expects = self.pairing.first().map(|first| first.expects.clone());
        let is_subscribing = matches!(expects, Some(Expects::Confirmations { .. }));
        let data = input.data;
        match data.first() {
            Some(b'>') => {
                let Some(word) = FirstWord::read(data)? else { return Ok(None) };
                let confirms = is_subscribing && confirmation(word.word).is_some();
                Ok(Some(if confirms { ReplyClass::Confirmation } else { ReplyClass::Event }))
            }
            Some(b'*') if !self.pairing.is_exact() || is_pubsub(expects.as_ref()) => {
                let Some(word) = FirstWord::read(data)? else { return Ok(None) };
                if is_subscribing && word.length == 3 && confirmation(word.word).is_some() {
                    return Ok(Some(ReplyClass::Confirmation));
                }
                let is_message = word.is_message() && self.session.may_be_subscribed();
                Ok(Some(if is_message { ReplyClass::Event } else { ReplyClass::Answer }))
            }
            Some(b'+') if expects.is_none() => {
                let Some((line, _)) = resp::line(data, MAX_LINE)? else { return Ok(None) };
                let is_monitor = monitor_line(line.get(1..).unwrap_or_default()).is_some();
                Ok(Some(if is_monitor { ReplyClass::Event } else { ReplyClass::Answer }))
            }
            _ => Ok(Some(ReplyClass::Answer)),
        }
    }

    fn open_reply(&self, class: ReplyClass, first: Timestamp) -> OpenReply {
        let kind = if class == ReplyClass::Event { MessageKind::Event } else { MessageKind::Response };
        let from = self.client.map_or(Direction::Receive, Direction::other);
        let message = Message::new(REDIS.name, kind, from, first);
        let contents = match class {
            ReplyClass::Event | ReplyClass::Confirmation => Reply::with_words(),
            ReplyClass::Answer | ReplyClass::Unpaired => Reply::new(),
        };
        OpenReply { message, class, contents }
    }

    /// A reply is complete.
    fn close_reply(&mut self, open: OpenReply, out: &mut Messages) {
        let OpenReply { mut message, class, contents: reply } = open;
        match class {
            ReplyClass::Event => {
                push_event_fields(&mut message, &reply);
                out.push(message);
            }
            ReplyClass::Confirmation => self.confirmation(message, &reply, out),
            ReplyClass::Unpaired => {
                self.pairing.answered(message.last);
                push_fields(&mut message, &reply);
                out.push(message);
            }
            ReplyClass::Answer => {
                let Some(command) = self.pairing.answered(message.last) else { return };
                message.id = Some(command.id);
                push_fields(&mut message, &reply);
                self.answered(&command, &reply, &mut message);
                out.push(message);
            }
        }
    }

    /// A subscription is confirmed. A command has one confirmation of each channel, which are its response
    /// together.
    fn confirmation(&mut self, mut message: Message, reply: &Reply, out: &mut Messages) {
        let kind = reply.words.first().and_then(|word| confirmation(word));
        let count = reply.words.get(2).and_then(|count| resp::number(count));
        let held = kind.and_then(|kind| *self.session.subscriptions(kind));
        let Some(first) = self.pairing.first() else { return };
        if let Some(mut earlier) = first.response.take() {
            earlier.length = earlier.length.saturating_add(message.length);
            earlier.partial.missing = earlier.partial.missing.saturating_add(message.partial.missing);
            earlier.last = message.last;
            message = *earlier;
        } else {
            message.id = Some(first.id);
        }
        let left = match &mut first.expects {
            Expects::Confirmations { count: Some(left), .. } => Some(left.saturating_sub(1)),
            // One of each that there is, or one that says that there is none.
            Expects::Confirmations { count: None, .. } => held.map(|held| held.saturating_sub(1)),
            _ => Some(0),
        };
        if let (Some(kind), Some(count)) = (kind, count) {
            self.session.confirm(kind, count);
        }
        match left {
            Some(0) => {
                self.pairing.answered(message.last);
                out.push(message);
            }
            Some(left) => {
                if let Some(first) = self.pairing.first() {
                    if let Expects::Confirmations { count, .. } = &mut first.expects {
                        *count = Some(left);
                    }
                    first.response = Some(Box::new(message));
                }
            }
            None => {
                // How many follow is not known.
                message.id = None;
                out.push(message);
                self.lose();
            }
        }
    }

    /// Follows what a reply changes.
    fn answered(&mut self, command: &PendingCommand, reply: &Reply, message: &mut Message) {
        let session = &mut self.session;
        let is_error = reply.error().is_some();
        if let Some(database) = session.database {
            message.fields.push((&NAMESPACE, FieldValue::Text(database.to_string())));
        }
        let was_queueing = matches!(session.transaction, Some(Transaction::Queueing | Transaction::Failed));
        let is_queued = reply.is_line(b"QUEUED");
        let mut ends_transaction = false;
        match command.expects {
            _ if is_queued => {
                session.transaction = session.transaction.filter(|it| *it == Transaction::Failed);
                session.transaction.get_or_insert(Transaction::Queueing);
                session.has_queued_change |= !matches!(command.expects, Expects::Value | Expects::Ping);
            }
            Expects::Multi if !is_error => session.transaction = Some(Transaction::Queueing),
            Expects::Exec => {
                let is_done = session.has_queued_change && !is_error;
                ends_transaction = true;
                (session.transaction, session.has_queued_change) = (Some(Transaction::None), false);
                if is_done {
                    let transaction = session.transaction;
                    *session = Session { transaction, ..Session::unknown() };
                    self.pairing.lose();
                }
            }
            Expects::Discard => {
                ends_transaction = true;
                (session.transaction, session.has_queued_change) = (Some(Transaction::None), false);
            }
            Expects::Reset if !is_error => *session = Session::new(),
            Expects::Select(database) if !is_error => session.database = Some(database),
            // A command that is not understood makes EXEC fail.
            _ if is_error && was_queueing => session.transaction = Some(Transaction::Failed),
            _ => {}
        }
        let shown = match self.session.transaction {
            Some(Transaction::None) => "idle",
            Some(Transaction::Queueing) => "in_transaction",
            Some(Transaction::Failed) => "failed",
            None => return,
        };
        if was_queueing || ends_transaction || shown != "idle" {
            message.fields.push((&TRANSACTION, FieldValue::Text(shown.to_owned())));
        }
        if command.expects == Expects::Exec
            && let Some(error) = &reply.inner_error
        {
            push_error(message, error);
        }
    }

    /// What is missing may be commands or replies.
    fn lose(&mut self) {
        self.pairing.lose();
        self.session = Session::unknown();
    }

    /// Bytes of commands are missing.
    fn lose_commands(&mut self, gap: Gap, out: &mut Messages) {
        let side = &mut self.commands;
        if gap.cause != GapCause::Desync
            && side.reader.skip(gap.length)
            && let Some(open) = &mut side.open
        {
            open.length = open.length.saturating_add(gap.length);
            open.missing = open.missing.saturating_add(gap.length);
            side.arguments.lose();
            return;
        }
        self.cut_command(out);
        let side = &mut self.commands;
        side.reader.reset();
        (side.is_searching, side.is_broken, side.in_transaction) = (true, false, false);
        side.replies = ReplyMode::On;
        self.lose();
    }

    /// Bytes of replies are missing.
    fn lose_replies(&mut self, gap: Gap, out: &mut Messages) {
        let side = &mut self.replies;
        if gap.cause != GapCause::Desync
            && side.reader.skip(gap.length)
            && let Some(open) = &mut side.open
        {
            open.message.length = open.message.length.saturating_add(gap.length);
            open.message.partial.missing = open.message.partial.missing.saturating_add(gap.length);
            return;
        }
        self.cut_reply(out);
        self.replies.reader.reset();
        self.replies.is_searching = true;
        self.lose();
    }

    /// Adds the command that is being read, whose end is missing.
    fn cut_command(&mut self, out: &mut Messages) {
        let Some(open) = self.commands.open.take() else { return };
        self.commands.arguments.lose();
        let mut message = open.message(self.client.unwrap_or(Direction::Transmit), &self.commands.arguments);
        message.partial.lacks_end = true;
        out.push(message);
    }

    /// Adds the reply that is being read, whose end is missing.
    fn cut_reply(&mut self, out: &mut Messages) {
        if let Some(open) = self.replies.open.take() {
            let OpenReply { mut message, class, contents } = open;
            message.partial.lacks_end = true;
            message.fields.extend(contents.rows.map(|rows| (&RETURNED_ROWS, FieldValue::Number(rows))));
            message.id = match class {
                ReplyClass::Answer => self.pairing.answered(message.last).map(|command| command.id),
                _ => None,
            };
            out.push(message);
        }
        if let Some(first) = self.pairing.first()
            && let Some(mut response) = first.response.take()
        {
            response.partial.lacks_end = true;
            out.push(*response);
        }
    }
}

impl CommandSide {
    /// Whether the command is answered, by what the client has asked for.
    fn is_answered(&mut self) -> bool {
        let mode = self.replies;
        if self.replies == ReplyMode::SkipsNext {
            self.replies = ReplyMode::On;
        }
        if self.arguments.is(0, "RESET") {
            self.replies = ReplyMode::On;
            return true;
        }
        if !self.arguments.is(0, "CLIENT") || !self.arguments.is(1, "REPLY") {
            return mode == ReplyMode::On;
        }
        if self.arguments.is(2, "ON") {
            self.replies = ReplyMode::On;
            return true;
        }
        if self.arguments.is(2, "OFF") {
            self.replies = ReplyMode::Off;
        } else if self.arguments.is(2, "SKIP") && mode != ReplyMode::Off {
            self.replies = ReplyMode::SkipsNext;
        } else {
            // An error.
            return mode == ReplyMode::On;
        }
        false
    }
}

impl ReplySide {
    fn seen(&self) -> RepliesSeen {
        if self.open.is_none() && !self.is_searching { RepliesSeen::Complete } else { RepliesSeen::UnderWay }
    }
}

impl OpenCommand {
    fn message(self, from: Direction, arguments: &Arguments) -> Message {
        let mut message = Message::new(REDIS.name, MessageKind::Request, from, self.first);
        (message.last, message.length) = (self.last, self.length);
        message.partial.missing = self.missing;
        message.fields.push((&SYSTEM, FieldValue::Text(REDIS.name.to_owned())));
        if let Some(name) = command::name(arguments) {
            message.fields.push((&OPERATION, FieldValue::Text(name.into_owned())));
            message.fields.push((&QUERY, FieldValue::Statement(command::statement(arguments))));
        }
        message
    }
}

impl OpenReply {
    fn add(&mut self, piece: &RespPiece<'_>, time: Timestamp) {
        self.message.last = time;
        self.message.length = self.message.length.saturating_add(piece.taken as u64);
        self.contents.add(piece);
    }
}

impl Decoder for RedisDecoder {
    fn learn(&mut self, hints: &Hints) {
        self.client = self.client.or(hints.role.map(client_direction));
    }

    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let mut taken = 0;
        loop {
            let data = input.data.get(taken..).unwrap_or_default();
            if data.is_empty() {
                return Ok(if taken == 0 { Step::More } else { Step::Taken(taken) });
            }
            let rest = Input { data, offset: input.offset.saturating_add(taken as u64), marks: input.marks };
            match self.step(from, rest, out) {
                Ok(Step::Taken(bytes)) => taken += bytes,
                // What was consumed is settled before anything else.
                _ if taken > 0 => return Ok(Step::Taken(taken)),
                other => return other,
            }
        }
    }

    fn gap(&mut self, from: Direction, gap: Gap, out: &mut Messages) {
        match self.client {
            Some(client) if client == from => self.lose_commands(gap, out),
            Some(_) => self.lose_replies(gap, out),
            None => {
                (self.commands.is_searching, self.replies.is_searching) = (true, true);
                self.lose();
            }
        }
    }

    fn end(&mut self, out: &mut Messages) {
        self.cut_command(out);
        self.cut_reply(out);
    }

    fn role(&self) -> Option<Role> {
        Some(match self.client? {
            Direction::Transmit => Role::Client,
            Direction::Receive => Role::Server,
        })
    }

    fn held_bytes(&self) -> usize {
        let reply = self.replies.open.as_ref().map_or(0, |open| open.message.size() + open.contents.size());
        let readers = self.commands.reader.size() + self.replies.reader.size();
        self.commands.arguments.size() + readers + reply + self.pairing.size()
    }
}

/// The direction of commands, by the role of the process.
fn client_direction(role: Role) -> Direction {
    match role {
        Role::Client => Direction::Transmit,
        Role::Server => Direction::Receive,
    }
}

/// Whether the bytes of a direction begin with a command, if it is not known which end is the client.
fn find_client(input: Input<'_>) -> Detect {
    let first = input.call_starts().next().unwrap_or(0);
    let data = input.data.get(first..).unwrap_or_default();
    match starts_command(data) {
        Detect::No => {
            let word = data.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            let is_whole = word.len() < data.len();
            match is_whole {
                true if command::is_known(word) => Detect::Yes,
                false if command::starts_known(word) => Detect::NeedMore,
                _ => Detect::No,
            }
        }
        found => found,
    }
}

/// Searches for a call that begins a value. None if one begins here.
fn search(input: Input<'_>, starts: fn(&[u8]) -> Detect) -> Option<Step> {
    for start in input.call_starts() {
        let found = starts(input.data.get(start..).unwrap_or_default());
        match (found, start) {
            (Detect::No, _) => {}
            (Detect::Yes, 0) => return None,
            (Detect::NeedMore, 0) => return Some(Step::More),
            (_, start) => return Some(Step::Skipped(start)),
        }
    }
    Some(Step::Skipped(input.data.len()))
}

/// What a command is answered by.
fn expects(arguments: &Arguments) -> Expects {
    let confirmations = |kind, unsubscribes: bool| {
        let count = arguments.count().saturating_sub(1);
        Expects::Confirmations { kind, count: (!unsubscribes || count > 0).then_some(count.max(1)) }
    };
    let Some(name) = command::name(arguments) else { return Expects::Value };
    match &*name {
        "PING" | "QUIT" => Expects::Ping,
        "SELECT" => arguments.number(1).map_or(Expects::Value, Expects::Select),
        "MULTI" => Expects::Multi,
        "EXEC" => Expects::Exec,
        "DISCARD" => Expects::Discard,
        "RESET" => Expects::Reset,
        "MONITOR" => Expects::Monitor,
        "SYNC" | "PSYNC" => Expects::Replication,
        "SUBSCRIBE" => confirmations(Subscription::Channels, false),
        "PSUBSCRIBE" => confirmations(Subscription::Patterns, false),
        "SSUBSCRIBE" => confirmations(Subscription::Shards, false),
        "UNSUBSCRIBE" => confirmations(Subscription::Channels, true),
        "PUNSUBSCRIBE" => confirmations(Subscription::Patterns, true),
        "SUNSUBSCRIBE" => confirmations(Subscription::Shards, true),
        _ => Expects::Value,
    }
}

/// Whether the reply to a command may wait for something that others do.
fn may_block(arguments: &Arguments) -> bool {
    let Some(name) = command::name(arguments) else { return false };
    matches!(
        &*name,
        "BLPOP"
            | "BRPOP"
            | "BLMOVE"
            | "BRPOPLPUSH"
            | "BLMPOP"
            | "BZPOPMIN"
            | "BZPOPMAX"
            | "BZMPOP"
            | "WAIT"
            | "WAITAOF"
            | "XREAD"
            | "XREADGROUP"
    )
}

/// Whether a client that waits for this may get messages of channels in arrays. One that has subscribed can
/// send nothing else then.
fn is_pubsub(expects: Option<&Expects>) -> bool {
    matches!(expects, None | Some(Expects::Confirmations { .. } | Expects::Ping | Expects::Reset))
}

/// What a confirmation is of, by its first word.
fn confirmation(word: &[u8]) -> Option<Subscription> {
    match word {
        b"subscribe" | b"unsubscribe" => Some(Subscription::Channels),
        b"psubscribe" | b"punsubscribe" => Some(Subscription::Patterns),
        b"ssubscribe" | b"sunsubscribe" => Some(Subscription::Shards),
        _ => None,
    }
}

/// The beginning of an aggregate whose first value is a short word.
struct FirstWord<'a> {
    length: u64,
    word: &'a [u8],
}

impl<'a> FirstWord<'a> {
    /// The longest word that matters: `punsubscribe`, `sunsubscribe`.
    const MAX: u64 = 16;

    /// Reads it. None if more bytes are needed. An aggregate that begins with something else has an empty
    /// word.
    fn read(data: &'a [u8]) -> Result<Option<Self>, Desync> {
        let Some((head, taken)) = resp::line(data, MAX_LINE)? else { return Ok(None) };
        let Some(length) = head.get(1..).and_then(resp::number) else {
            return Ok(Some(Self { length: 0, word: &[] }));
        };
        let other = Ok(Some(Self { length, word: &[] }));
        let rest = data.get(taken..).unwrap_or_default();
        match rest.first() {
            _ if length == 0 => return other,
            None => return Ok(None),
            Some(b'$' | b'+') => {}
            Some(_) => return other,
        }
        let Some((head, taken)) = resp::line(rest, MAX_LINE)? else { return Ok(None) };
        if let Some(word) = head.strip_prefix(b"+") {
            return Ok(Some(Self { length, word }));
        }
        let Some(size) = head.get(1..).and_then(resp::number).filter(|size| *size <= Self::MAX) else {
            return other;
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let word = rest.get(taken..).and_then(|rest| rest.get(..size));
        Ok(word.map(|word| Self { length, word }))
    }

    /// Whether it is a message of a channel.
    fn is_message(&self) -> bool {
        matches!((self.length, self.word), (3, b"message" | b"smessage") | (4, b"pmessage"))
    }
}

fn push_error(message: &mut Message, error: &[u8]) {
    let (code, text) = error_parts(error);
    message.fields.push((&STATUS, FieldValue::Text(code.clone())));
    message.fields.push((&STATUS_MESSAGE, FieldValue::Text(text)));
    message.fields.push((&ERROR_TYPE, FieldValue::Text(code)));
}

/// Adds what a reply says.
fn push_fields(message: &mut Message, reply: &Reply) {
    if let Some(error) = reply.error() {
        push_error(message, error);
    }
    if let Some(rows) = reply.rows {
        message.fields.push((&RETURNED_ROWS, FieldValue::Number(rows)));
    }
}

/// Adds what an event says: a message of a channel, an invalidation, a command that another client sent.
fn push_event_fields(message: &mut Message, reply: &Reply) {
    message.fields.push((&SYSTEM, FieldValue::Text(REDIS.name.to_owned())));
    if let Some(line) = monitor_line(&reply.text) {
        let database = String::from_utf8_lossy(line.database).into_owned();
        message.fields.push((&NAMESPACE, FieldValue::Text(database)));
        let mut arguments = Arguments::default();
        for word in reply::words(line.command).unwrap_or_default() {
            arguments.begin();
            arguments.add(&word);
        }
        if let Some(name) = command::name(&arguments) {
            message.fields.push((&OPERATION, FieldValue::Text(name.into_owned())));
            message.fields.push((&QUERY, FieldValue::Statement(command::statement(&arguments))));
        }
        return;
    }
    let Some((word, rest)) = reply.words.split_first() else { return };
    let word = shown_word(word);
    let mut statement = Statement::default();
    statement.push(StatementPart::Text, &word);
    for (index, text) in rest.iter().enumerate() {
        let is_last = index + 1 == rest.len();
        statement.push(StatementPart::Text, " ");
        statement.push(if is_last { StatementPart::Value } else { StatementPart::Key }, &shown_word(text));
    }
    message.fields.push((&OPERATION, FieldValue::Text(word)));
    message.fields.push((&QUERY, FieldValue::Statement(statement)));
}
