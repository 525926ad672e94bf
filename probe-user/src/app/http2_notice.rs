//! `ctrace ssl` says once that HTTP/2, which is binary, can be shown as requests.

use std::io;

use jiff::Timestamp;

use crate::event::{Body, Output, Record, Ssl, Summary};
use crate::stderr::say;

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// The name of HTTP/2 in the handshake (ALPN).
const ALPN: &str = "h2";

/// An output around another one, to which it passes everything on.
#[derive(Debug)]
pub(super) struct Http2Notice {
    output: Box<dyn Output>,
    is_said: bool,
}

impl Http2Notice {
    pub(super) fn new(output: Box<dyn Output>) -> Self {
        Self { output, is_said: false }
    }
}

impl Output for Http2Notice {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        if !self.is_said && is_http2(record) {
            self.is_said = true;
            say(&"a connection uses HTTP/2, which is binary; `ctrace requests` shows its requests as text");
        }
        self.output.write(record)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        self.output.finish(summary)
    }

    fn pause(&mut self, now: Timestamp) -> io::Result<()> {
        self.output.pause(now)
    }

    fn is_complete(&self) -> bool {
        self.output.is_complete()
    }
}

/// Whether it is the first call of a connection that uses HTTP/2.
fn is_http2(Record { context, body }: &Record<'_>) -> bool {
    let Body::Ssl(Ssl { data, .. }) = body else { return false };
    let negotiated = context.tls().and_then(|known| known.tls.next_protocol.as_deref());
    negotiated == Some(ALPN) || data.0.starts_with(PREFACE)
}
