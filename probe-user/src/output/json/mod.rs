//! JSON Lines: one object a line, described by [`schema`] and docs/events.md.
//!
//! Owns how a line is put together; its shape is in `line`, and payload is appended by hand, for speed.
//! It escapes what JSON demands and what would act on a terminal; a consumer gets all of it back as it was.

use std::io;

use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::RecordWriter;
use crate::event::Output;
use crate::event::{Record, Ssl, Summary};
use crate::plan::Plan;

mod connection;
mod exec;
mod line;
mod payload_string;
mod terminal_safe;
mod tls;
mod uprobe;

use connection::{SslCloseLine, SslOpenLine};
use exec::{ExecFailedLine, ExecLine, ExitLine, ForkLine};
use line::{Line, LostLine, SslLine, SummaryLine};
use uprobe::{FunctionLine, FunctionTotalLine};

/// The sink.
#[derive(Debug)]
pub(super) struct Json {
    output: RecordWriter,
}

impl Json {
    pub(super) fn new(output: RecordWriter) -> Self {
        Self { output }
    }
}

impl Output for Json {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let buffer = self.output.buffer();
        let start = buffer.len();
        match record {
            Record::Ssl(ssl) => write_ssl(ssl, buffer)?,
            Record::SslOpen(connection) => {
                serde_json::to_writer(&mut *buffer, &SslOpenLine::new(connection))?;
            }
            Record::SslClose(close) => serde_json::to_writer(&mut *buffer, &SslCloseLine::new(close))?,
            Record::Function(call) => serde_json::to_writer(&mut *buffer, &FunctionLine::new(call))?,
            Record::FunctionTotal(total) => {
                serde_json::to_writer(&mut *buffer, &FunctionTotalLine::new(total))?;
            }
            Record::Exec(exec) => serde_json::to_writer(&mut *buffer, &ExecLine::new(exec))?,
            Record::ExecFailed(failed) => serde_json::to_writer(&mut *buffer, &ExecFailedLine::new(failed))?,
            Record::Exit(exit) => serde_json::to_writer(&mut *buffer, &ExitLine::new(exit))?,
            Record::Fork(fork) => serde_json::to_writer(&mut *buffer, &ForkLine::new(fork))?,
            Record::Lost(lost) => serde_json::to_writer(&mut *buffer, &LostLine::new(lost))?,
            Record::Summary(summary) => serde_json::to_writer(&mut *buffer, &SummaryLine::new(summary))?,
        }
        terminal_safe::escape(buffer, start);
        buffer.push(b'\n');
        self.output.end_record()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The summary is the last line.
    fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        self.write(&Record::Summary(summary.clone()))?;
        self.flush()
    }
}

/// Appends the line of a call without its end. serde_json would look at each byte of the payload alone,
/// so that the payload is appended here, as the last member of the object.
fn write_ssl(ssl: &Ssl<'_>, buffer: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *buffer, &SslLine::new(ssl))?;
    match simdutf8::basic::from_utf8(ssl.data.0) {
        Ok("") => return Ok(()),
        Ok(text) => {
            open_member(b"data", buffer);
            payload_string::push(text, buffer);
        }
        Err(_) => {
            open_member(b"data_base64", buffer);
            buffer.push(b'"');
            base64_simd::STANDARD.encode_append(ssl.data.0, buffer);
            buffer.push(b'"');
        }
    }
    buffer.push(b'}');
    Ok(())
}

/// Takes away the end of the object and begins another member.
fn open_member(name: &[u8], buffer: &mut Vec<u8>) {
    buffer.pop();
    buffer.extend_from_slice(b",\"");
    buffer.extend_from_slice(name);
    buffer.extend_from_slice(b"\":");
}

/// The JSON Schema (draft 2020-12) of a line.
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Line<'_>>();
    schema.insert("title".into(), "ctrace record".into());
    // A schema is a serde_json::Value, whose alternate Display is pretty JSON and cannot fail.
    format!("{:#}", schema.to_value())
}

/// Writes a plan for a person and for programs: one object on several lines.
pub fn write_plan(plan: &Plan, out: &mut dyn io::Write) -> io::Result<()> {
    write_json(plan, out)
}

/// Writes an answer that is no record: one object on several lines, which a terminal shows and nothing more.
pub fn write_json(answer: &impl Serialize, out: &mut dyn io::Write) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(answer)?;
    terminal_safe::escape(&mut text, 0);
    text.push(b'\n');
    out.write_all(&text)
}
