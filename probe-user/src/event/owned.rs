//! Records that borrow nothing: for who keeps them. What is written at once stays borrowed.

use std::borrow::Cow;

use super::{
    ArgList, Argument, CallOutcome, Exec, ExecContext, ExecFailed, Exit, Fork, Plaintext, Record, Ssl,
    SslClose, SslOpen, TlsInfo, UprobeCall, UprobeTotal, Value,
};

impl Record<'_> {
    /// The same record, with a copy of everything that it borrows.
    pub fn into_owned(self) -> Record<'static> {
        match self {
            Self::Ssl(ssl) => Record::Ssl(ssl.into_owned()),
            Self::SslOpen(open) => Record::SslOpen(open.into_owned()),
            Self::SslClose(close) => Record::SslClose(close.into_owned()),
            Self::Uprobe(call) => Record::Uprobe(call.into_owned()),
            Self::UprobeTotal(total) => Record::UprobeTotal(total.into_owned()),
            Self::Exec(exec) => Record::Exec(exec.into_owned()),
            Self::ExecFailed(failed) => Record::ExecFailed(failed.into_owned()),
            Self::Exit(exit) => Record::Exit(exit.into_owned()),
            Self::Fork(fork) => Record::Fork(fork.into_owned()),
            Self::Lost(lost) => Record::Lost(lost),
            Self::Summary(summary) => Record::Summary(summary),
        }
    }
}

fn owned<T: ToOwned + ?Sized>(borrowed: Cow<'_, T>) -> Cow<'static, T> {
    Cow::Owned(borrowed.into_owned())
}

impl Plaintext<'_> {
    fn into_owned(self) -> Plaintext<'static> {
        Plaintext(owned(self.0))
    }
}

impl TlsInfo<'_> {
    fn into_owned(self) -> TlsInfo<'static> {
        TlsInfo { tls: owned(self.tls), is_first: self.is_first }
    }
}

impl Ssl<'_> {
    fn into_owned(self) -> Ssl<'static> {
        Ssl {
            time: self.time,
            origin: owned(self.origin),
            thread: self.thread,
            library: owned(self.library),
            function: owned(self.function),
            direction: self.direction,
            connection: self.connection,
            socket: self.socket.map(owned),
            tls: self.tls.map(TlsInfo::into_owned),
            length: self.length,
            captured: self.captured,
            offset: self.offset,
            data: self.data.into_owned(),
        }
    }
}

impl SslOpen<'_> {
    fn into_owned(self) -> SslOpen<'static> {
        SslOpen {
            time: self.time,
            origin: owned(self.origin),
            thread: self.thread,
            library: self.library.map(owned),
            id: self.id,
            from_start: self.from_start,
            socket: self.socket.map(owned),
            tls: self.tls.map(TlsInfo::into_owned),
        }
    }
}

impl SslClose<'_> {
    fn into_owned(self) -> SslClose<'static> {
        let Self { connection, duration, traffic, end } = self;
        SslClose { connection: connection.into_owned(), duration, traffic, end }
    }
}

impl UprobeCall<'_> {
    fn into_owned(self) -> UprobeCall<'static> {
        let arguments = self.arguments.map(|list| list.into_iter().map(Argument::into_owned).collect());
        UprobeCall {
            time: self.time,
            origin: owned(self.origin),
            thread: self.thread,
            goroutine: self.goroutine,
            object: owned(self.object),
            function: owned(self.function),
            arguments,
            end: self.end.into_owned(),
            stack: self.stack,
        }
    }
}

impl CallOutcome<'_> {
    fn into_owned(self) -> CallOutcome<'static> {
        match self {
            Self::NotRequested => CallOutcome::NotRequested,
            Self::NeverReturned => CallOutcome::NeverReturned,
            Self::ReturnMissed => CallOutcome::ReturnMissed,
            Self::Returned { value, duration } => {
                CallOutcome::Returned { value: value.map(Argument::into_owned), duration }
            }
        }
    }
}

impl Argument<'_> {
    fn into_owned(self) -> Argument<'static> {
        let Self { index, kind, value } = self;
        let value = match value {
            Value::Signed(value) => Value::Signed(value),
            Value::Unsigned(value) => Value::Unsigned(value),
            Value::Hex(value) => Value::Hex(value),
            Value::Bool(value) => Value::Bool(value),
            Value::Text(data, truncation) => Value::Text(data.into_owned(), truncation),
            Value::Bytes(data, truncation) => Value::Bytes(data.into_owned(), truncation),
            Value::Unreadable => Value::Unreadable,
        };
        Argument { index, kind, value }
    }
}

impl UprobeTotal<'_> {
    fn into_owned(self) -> UprobeTotal<'static> {
        UprobeTotal {
            time: self.time,
            since: self.since,
            container: self.container,
            object: owned(self.object),
            function: owned(self.function),
            count: self.count,
            latency: self.latency,
        }
    }
}

impl ExecContext<'_> {
    fn into_owned(self) -> ExecContext<'static> {
        ExecContext {
            time: self.time,
            origin: owned(self.origin),
            thread: self.thread,
            id: self.id,
            parent: self.parent.map(owned),
            depth: self.depth,
        }
    }
}

impl ArgList<'_> {
    fn into_owned(self) -> ArgList<'static> {
        let Self { list, count, truncated } = self;
        ArgList { list: list.into_iter().map(Plaintext::into_owned).collect(), count, truncated }
    }
}

impl Exec<'_> {
    fn into_owned(self) -> Exec<'static> {
        Exec {
            actor: self.actor.into_owned(),
            users: self.users,
            path: self.path.map(owned),
            interpreter: self.interpreter.map(owned),
            arguments: self.arguments.into_owned(),
            environment: self.environment.map(ArgList::into_owned),
            directory: self.directory.map(owned),
            tty: self.tty.map(owned),
            existing: self.existing,
        }
    }
}

impl ExecFailed<'_> {
    fn into_owned(self) -> ExecFailed<'static> {
        let Self { actor, users, path, arguments, error } = self;
        let (actor, arguments) = (actor.into_owned(), arguments.into_owned());
        ExecFailed { actor, users, path: path.map(owned), arguments, error }
    }
}

impl Exit<'_> {
    fn into_owned(self) -> Exit<'static> {
        let Self { actor, ending, duration, forked } = self;
        Exit { actor: actor.into_owned(), ending, duration, forked }
    }
}

impl Fork<'_> {
    fn into_owned(self) -> Fork<'static> {
        let Self { actor, child } = self;
        Fork { actor: actor.into_owned(), child }
    }
}
