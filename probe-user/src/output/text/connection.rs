//! Connections that open and close, a line each.

use std::fmt::{self, Write as _};

use super::{Text, escape, plural, tls, uprobe};
use crate::event::{CloseReason, Context, Library, SslClose, SslOpen, TlsInfo, Traffic};

impl Text {
    /// `open  #7 10.0.0.2:443↔10.0.0.1:51234 TLS 1.3 … libssl.so.3`
    pub(super) fn open(&mut self, context: &Context<'_>, open: &SslOpen<'_>) -> fmt::Result {
        let from_start = context.connection.as_ref().is_some_and(|connection| connection.from_start);
        self.line.push_str(if from_start { "open" } else { "open (it began before)" });
        let tls = context.tls().filter(|known| known.is_first);
        self.connection(context, tls, open.library.as_deref())
    }

    /// `close ← 31 B → 70000 B, 12 calls, 1.23 s, socket closed  #7 10.0.0.2:443↔10.0.0.1:51234 TLS 1.3 …
    /// libssl.so.3`
    pub(super) fn close(&mut self, context: &Context<'_>, close: &SslClose<'_>) -> fmt::Result {
        let &SslClose { ref library, duration, traffic, reason } = close;
        let Traffic { calls, received, transmitted } = traffic;
        write!(self.line, "close ← {received} B → {transmitted} B, {}", plural(calls, "call"))?;
        if let Some(duration) = duration {
            write!(self.line, ", {}", uprobe::duration(duration))?;
        }
        self.line.push_str(match reason {
            CloseReason::Closed => "",
            CloseReason::HandleReused => ", handle reused",
            CloseReason::SocketClosed => ", socket closed",
            CloseReason::Exit => ", process ended",
            CloseReason::Exec => ", another program",
        });
        // The handshake is repeated, so that the line is complete by itself.
        self.connection(context, context.tls(), library.as_deref())
    }

    /// Appends the number of the connection, both ends, the handshake and the library.
    fn connection(
        &mut self,
        context: &Context<'_>,
        tls: Option<&TlsInfo<'_>>,
        library: Option<&Library>,
    ) -> fmt::Result {
        let faint = self.styles.faint;
        write!(self.line, "  {faint}")?;
        if let Some(connection) = &context.connection {
            write!(self.line, "#{}", connection.id)?;
        }
        if let Some(socket) = context.socket() {
            self.line.push(' ');
            super::socket(socket, &mut self.line);
        }
        self.line.push(' ');
        if let Some(TlsInfo { tls, .. }) = tls {
            tls::facts(tls, &mut self.line);
        }
        if let Some(library) = library {
            escape::name(library.name.as_bytes(), &mut self.line);
        }
        self.line.truncate(self.line.trim_end().len());
        writeln!(self.line, "{faint:#}")
    }
}
