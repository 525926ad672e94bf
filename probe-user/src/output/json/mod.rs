//! JSON Lines: one object a line, described by [`schema`] and docs/events.md.
//!
//! Owns how a line is put together. `line` has the envelope of every line, and each family of records has a
//! file with the fields that it adds. Payload is appended by hand, for speed.
//! Lines escape what JSON demands and characters that would act on a terminal. A JSON parser restores both.

use std::io;

use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::RecordWriter;
use crate::event::Output;
use crate::event::{Body, Context, Record, Ssl, Summary};
use crate::plan::Plan;

mod connection;
mod exec;
mod harmed;
mod layout;
mod line;
mod loss;
mod missed;
mod nested;
mod payload_string;
mod read;
mod request;
mod request_stats;
#[cfg(test)]
mod round_trip;
mod ssl;
mod terminal_safe;
mod tls;
mod unknown_tls;
mod uprobe;

use connection::{SslCloseBody, SslOpenBody};
use exec::{ExecBody, ExecFailedBody, ExitBody, ForkBody};
use harmed::HarmedBody;
use layout::Layouts;
use line::AnyLine;
use loss::{LostBody, SummaryBody};
use missed::MissedBody;
pub use read::Recorded;
pub(crate) use read::{LineError, read};
use request::{RequestBody, StreamMessageBody};
use request_stats::RequestStatsBody;
use ssl::SslBody;
use unknown_tls::UnknownTlsBody;
use uprobe::{UprobeBody, UprobeTotalBody};

/// The output.
#[derive(Debug)]
pub(super) struct Json {
    output: RecordWriter,
    layouts: Layouts,
}

impl Json {
    pub(super) fn new(output: RecordWriter) -> Self {
        Self { output, layouts: Layouts::new() }
    }

    /// Writes the line that `append` appends to the buffer.
    fn line(&mut self, append: impl FnOnce(&mut Vec<u8>, &mut Layouts) -> io::Result<()>) -> io::Result<()> {
        let buffer = self.output.buffer();
        let start = buffer.len();
        append(buffer, &mut self.layouts)?;
        terminal_safe::escape(buffer, start);
        buffer.push(b'\n');
        self.output.end_record()
    }
}

impl Output for Json {
    fn write(&mut self, Record { context, body }: &Record<'_>) -> io::Result<()> {
        self.line(|buffer, layouts| match body {
            Body::Ssl(ssl) => write_ssl(context, ssl, buffer),
            Body::SslOpen(open) => line::write(context, &SslOpenBody::new(context, open)?, buffer),
            Body::SslClose(close) => line::write(context, &SslCloseBody::new(context, close)?, buffer),
            Body::Uprobe(call) => line::write(context, &UprobeBody::new(call), buffer),
            Body::UprobeTotal(total) => line::write(context, &UprobeTotalBody::new(total), buffer),
            Body::Exec(exec) => line::write_execution(context, |of| ExecBody::new(of, exec), buffer),
            Body::ExecFailed(failed) => {
                line::write_execution(context, |of| ExecFailedBody::new(of, failed), buffer)
            }
            Body::Exit(exit) => line::write_execution(context, |of| ExitBody::new(of, exit), buffer),
            Body::Fork(fork) => line::write_execution(context, |of| ForkBody::new(of, fork), buffer),
            Body::Harmed(harmed) => line::write(context, &HarmedBody::new(harmed), buffer),
            Body::Missed(missed) => line::write(context, &MissedBody::new(missed), buffer),
            Body::UnknownTls(unknown) => line::write(context, &UnknownTlsBody::new(unknown), buffer),
            Body::Request(request) => line::write_fields(
                context,
                RequestBody::new(context, request, layouts.fields()),
                layouts,
                buffer,
            ),
            Body::Message(message) => line::write_fields(
                context,
                StreamMessageBody::new(context, message, layouts.fields()),
                layouts,
                buffer,
            ),
            Body::RequestStats(stats) => line::write(context, &RequestStatsBody::new(stats), buffer),
            Body::Lost(lost) => line::write(context, &LostBody::new(lost), buffer),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The summary is the last line.
    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        let context = Context::of_trace(summary.time);
        self.line(|buffer, _| line::write(&context, &SummaryBody::new(summary), buffer))?;
        self.flush()
    }
}

/// Appends the line of a call without its end. serde_json would escape the payload byte by byte, so the
/// payload is appended here, as the last member of the object.
fn write_ssl(context: &Context<'_>, ssl: &Ssl<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
    line::write(context, &SslBody::new(context, ssl), buffer)?;
    match simdutf8::basic::from_utf8(&ssl.data.0) {
        Ok("") => return Ok(()),
        Ok(text) => {
            open_member(b"data", buffer);
            payload_string::push(text, buffer);
        }
        Err(_) => {
            open_member(b"data_base64", buffer);
            buffer.push(b'"');
            base64_simd::STANDARD.encode_append(&ssl.data.0, buffer);
            buffer.push(b'"');
        }
    }
    buffer.push(b'}');
    Ok(())
}

/// Removes the end of the object and begins another member.
fn open_member(name: &[u8], buffer: &mut Vec<u8>) {
    buffer.pop();
    buffer.extend_from_slice(b",\"");
    buffer.extend_from_slice(name);
    buffer.extend_from_slice(b"\":");
}

/// The JSON Schema (draft 2020-12) of a line.
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<AnyLine<'_>>();
    schema.insert("title".into(), "ctrace record".into());
    // A schema is a serde_json::Value, whose alternate Display is pretty JSON and cannot fail.
    format!("{:#}", schema.to_value())
}

/// Writes a plan as one object on several lines, for people and for programs.
pub fn write_plan(plan: &Plan, out: &mut dyn io::Write) -> io::Result<()> {
    write_json(plan, out)
}

/// Writes an answer that is no record as one object on several lines. It contains nothing that acts on a
/// terminal.
pub fn write_json(answer: &impl Serialize, out: &mut dyn io::Write) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(answer)?;
    terminal_safe::escape(&mut text, 0);
    text.push(b'\n');
    out.write_all(&text)
}
