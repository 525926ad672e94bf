//! Connections that begin and end, a line each.

use std::fmt::{self, Write as _};

use super::{Text, escape, plural, tls, uprobe};
use crate::event::{CloseReason, SslClose, SslOpen, TlsInfo, Traffic};

impl Text {
    /// `15:04:05.123456 web tls-server[1234] open  #7 10.0.0.2:443↔10.0.0.1:51234 TLS 1.3 … libssl.so.3`
    pub(super) fn open(&mut self, connection: &SslOpen<'_>) -> fmt::Result {
        self.who(connection.time, &connection.origin, &connection.thread)?;
        self.line.push_str(if connection.from_start { " open" } else { " open (it began before)" });
        self.connection(connection, connection.tls.as_ref().filter(|known| known.is_first))
    }

    /// `15:04:05.123456 web tls-server[1234] close ← 31 B → 70000 B, 12 calls, 1.23 s, socket closed  #7
    /// 10.0.0.2:443↔10.0.0.1:51234 TLS 1.3 … libssl.so.3`
    pub(super) fn close(&mut self, close: &SslClose<'_>) -> fmt::Result {
        let &SslClose { ref connection, duration, traffic, end } = close;
        let Traffic { calls, received, transmitted } = traffic;
        self.who(connection.time, &connection.origin, &connection.thread)?;
        write!(self.line, " close ← {received} B → {transmitted} B, {}", plural(calls, "call"))?;
        if let Some(duration) = duration {
            write!(self.line, ", {}", uprobe::duration(duration))?;
        }
        self.line.push_str(match end {
            CloseReason::Closed => "",
            CloseReason::HandleReused => ", handle reused",
            CloseReason::SocketClosed => ", socket closed",
            CloseReason::Exit => ", process ended",
            CloseReason::Exec => ", another program",
        });
        // Told again: the line is to say all by itself.
        self.connection(connection, connection.tls.as_ref())
    }

    /// What follows: number, both ends, handshake, library.
    fn connection(&mut self, connection: &SslOpen<'_>, known: Option<&TlsInfo<'_>>) -> fmt::Result {
        let faint = self.styles.faint;
        write!(self.line, "  {faint}#{}", connection.id)?;
        if let Some(socket) = &connection.socket {
            self.line.push(' ');
            super::socket(socket, &mut self.line);
        }
        self.line.push(' ');
        if let Some(TlsInfo { tls, .. }) = known {
            tls::facts(tls, &mut self.line);
        }
        if let Some(library) = &connection.library {
            escape::name(library.name.as_bytes(), &mut self.line);
        }
        self.line.truncate(self.line.trim_end().len());
        writeln!(self.line, "{faint:#}")
    }
}
