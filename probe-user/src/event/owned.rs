//! Records that borrow nothing, for those who keep them. Records that are written at once stay borrowed.

use std::borrow::Cow;

use super::{
    ArgList, Argument, Body, CallOutcome, Connection, Context, Exec, ExecFailed, ExecLineage, Exit, Fork,
    Origin, Plaintext, Record, Ssl, SslClose, SslOpen, TlsInfo, UprobeCall, UprobeTotal, Value,
};

impl Record<'_> {
    /// The same record, with a copy of everything that it borrows.
    pub fn into_owned(self) -> Record<'static> {
        Record { context: self.context.into_owned(), body: self.body.into_owned() }
    }
}

impl Context<'_> {
    fn into_owned(self) -> Context<'static> {
        let Self { time, origin, connection } = self;
        let origin = match origin {
            Origin::Thread { process, thread } => Origin::Thread { process: owned(process), thread },
            Origin::Container { container, since } => Origin::Container { container, since },
            Origin::Trace => Origin::Trace,
        };
        Context { time, origin, connection: connection.map(Connection::into_owned) }
    }
}

impl Connection<'_> {
    fn into_owned(self) -> Connection<'static> {
        let Self { id, from_start, partial_attach, socket, tls } = self;
        let (socket, tls) = (socket.map(owned), tls.map(TlsInfo::into_owned));
        Connection { id, from_start, partial_attach, socket, tls }
    }
}

impl Body<'_> {
    fn into_owned(self) -> Body<'static> {
        match self {
            Self::Ssl(ssl) => Body::Ssl(ssl.into_owned()),
            Self::SslOpen(SslOpen { library }) => Body::SslOpen(SslOpen { library: library.map(owned) }),
            Self::SslClose(close) => Body::SslClose(close.into_owned()),
            Self::Uprobe(call) => Body::Uprobe(call.into_owned()),
            Self::UprobeTotal(total) => Body::UprobeTotal(total.into_owned()),
            Self::Exec(exec) => Body::Exec(exec.into_owned()),
            Self::ExecFailed(failed) => Body::ExecFailed(failed.into_owned()),
            Self::Exit(exit) => Body::Exit(exit.into_owned()),
            Self::Fork(Fork { lineage, child }) => Body::Fork(Fork { lineage: lineage.into_owned(), child }),
            Self::Harmed(harmed) => Body::Harmed(harmed),
            Self::Missed(missed) => Body::Missed(missed),
            Self::UnknownTls(unknown) => Body::UnknownTls(unknown),
            Self::Request(request) => Body::Request(request),
            Self::Message(message) => Body::Message(message),
            Self::RequestStats(stats) => Body::RequestStats(stats),
            Self::Lost(lost) => Body::Lost(lost),
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
            library: owned(self.library),
            function: owned(self.function),
            direction: self.direction,
            position: self.position,
            length: self.length,
            duration: self.duration,
            captured: self.captured,
            offset: self.offset,
            data: self.data.into_owned(),
        }
    }
}

impl SslClose<'_> {
    fn into_owned(self) -> SslClose<'static> {
        let Self { library, duration, traffic, reason } = self;
        SslClose { library: library.map(owned), duration, traffic, reason }
    }
}

impl UprobeCall<'_> {
    fn into_owned(self) -> UprobeCall<'static> {
        let arguments = self.arguments.map(|list| list.into_iter().map(Argument::into_owned).collect());
        UprobeCall {
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
            Value::Single(value) => Value::Single(value),
            Value::Double(value) => Value::Double(value),
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
        let Self { object, function, count, latency } = self;
        UprobeTotal { object: owned(object), function: owned(function), count, latency }
    }
}

impl ExecLineage<'_> {
    fn into_owned(self) -> ExecLineage<'static> {
        let Self { id, parent, depth } = self;
        ExecLineage { id, parent: parent.map(owned), depth }
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
            lineage: self.lineage.into_owned(),
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
        let Self { lineage, users, path, arguments, error } = self;
        let (lineage, arguments) = (lineage.into_owned(), arguments.into_owned());
        ExecFailed { lineage, users, path: path.map(owned), arguments, error }
    }
}

impl Exit<'_> {
    fn into_owned(self) -> Exit<'static> {
        let Self { lineage, ending, duration, forked } = self;
        Exit { lineage: lineage.into_owned(), ending, duration, forked }
    }
}
