//! The output of a `ctrace` that has ended, and the checks that every test makes of it.

use std::process::ExitStatus;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::streams::Streams;

/// The output of a run.
#[derive(Debug)]
pub struct RunningTrace {
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: String,
    /// The exit status.
    pub status: ExitStatus,
}

/// A record of type `ssl`, with the fields that the tests use.
#[derive(Debug, Clone, Deserialize)]
pub struct JsonRecord {
    /// Null outside containers.
    pub container: Option<RecordedContainer>,
    /// The process of the call.
    pub process: ProcessField,
    /// The library that was called.
    pub library: LibraryField,
    /// The function that was called.
    pub function: String,
    /// The direction.
    pub network: NetworkField,
    /// Null if the kernel's table of connections was full.
    pub connection: Option<ConnectionField>,
    /// The call.
    pub call: CallField,
    data: Option<String>,
    data_base64: Option<String>,
}

/// `container` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordedContainer {
    /// 64 digits.
    pub id: String,
    /// The name that Docker reports.
    pub name: Option<String>,
}

/// `process` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct ProcessField {
    /// As the host sees it.
    pub pid: u32,
    /// The process id inside the container.
    pub vpid: Option<u32>,
    /// Its name.
    pub comm: String,
}

/// `library` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct LibraryField {
    /// Its file name.
    pub name: String,
    /// Its path.
    pub path: String,
}

/// `network` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct NetworkField {
    /// The direction of the call.
    pub io: IoField,
}

/// `network.io` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct IoField {
    /// `transmit` or `receive`.
    pub direction: crate::streams::Direction,
}

/// `connection` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct ConnectionField {
    /// Unique in a run.
    pub id: u64,
    /// Whether the connection was seen from its first byte.
    pub from_start: bool,
    /// Position of the data's first byte in the stream of this direction.
    pub offset: u64,
}

/// `call` of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct CallField {
    /// The number of the call on the connection.
    pub number: Option<u64>,
    /// Bytes that the call moved.
    pub length: u64,
    /// How many of these bytes are in records.
    pub captured: u64,
    /// Nanoseconds from its entry to its return.
    pub duration: u64,
    /// Position of the data's first byte in the call.
    pub offset: u64,
    /// Whether the call was cut.
    pub truncated: bool,
}

impl JsonRecord {
    /// The payload; empty if payload was not requested.
    pub fn payload(&self) -> Result<Vec<u8>> {
        match (&self.data, &self.data_base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => {
                base64_simd::STANDARD.decode_to_vec(text).context("data_base64 is not base64")
            }
            (None, None) => Ok(Vec::new()),
            (Some(_), Some(_)) => anyhow::bail!("a record has both data and data_base64"),
        }
    }

    /// Whether the record has a payload field at all.
    pub fn has_payload(&self) -> bool {
        self.data.is_some() || self.data_base64.is_some()
    }
}

impl RunningTrace {
    /// The exit status as a number; none if a signal ended ctrace.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Every line as JSON.
    pub fn lines(&self) -> Result<Vec<Value>> {
        let lines = self.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).with_context(|| format!("{:?}", bstr(line)))).collect()
    }

    /// The records of type `ssl`.
    pub fn records(&self) -> Result<Vec<JsonRecord>> {
        let lines = self.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let of_calls = lines.filter(|line| type_of(line).is_ok_and(|kind| kind == "ssl"));
        of_calls.map(|line| serde_json::from_slice(line).with_context(|| bstr(line))).collect()
    }

    /// The last record, which must be the summary.
    pub fn summary(&self) -> Result<Value> {
        let last = self.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        let last = last.with_context(|| format!("ctrace wrote nothing; standard error:\n{}", self.stderr))?;
        ensure!(type_of(last)? == "summary", "the last record is no summary: {}", bstr(last));
        serde_json::from_slice(last).context("the summary")
    }

    /// A number in the summary, by its JSON pointer.
    pub fn counted(&self, pointer: &str) -> Result<u64> {
        let summary = self.summary()?;
        let number = summary.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("the summary has no {pointer}: {summary}"))
    }

    /// Reassembles the streams of the records for which `wanted` holds.
    pub fn streams(&self, wanted: impl Fn(&JsonRecord) -> bool) -> Result<Streams> {
        let records: Vec<JsonRecord> = self.records()?.into_iter().filter(|record| wanted(record)).collect();
        Streams::of(&records).with_context(|| format!("standard error of ctrace:\n{}", self.stderr))
    }

    /// Checks that the trace succeeded and reports no loss, and that its sums are those of its records.
    pub fn check_complete(&self) -> Result<()> {
        ensure!(self.status.success(), "ctrace ended with {}; standard error:\n{}", self.status, self.stderr);
        let summary = self.summary()?;
        for pointer in ["/lost/events", "/lost/bytes", "/undecodable", "/truncated"] {
            ensure!(self.counted(pointer)? == 0, "{pointer} is not 0: {summary}");
        }
        let records = self.records()?;
        let bytes: u64 = records.iter().map(|record| record.call.captured).sum();
        let (calls_told, bytes_told) = (self.counted("/calls")?, self.counted("/bytes")?);
        ensure!(
            calls_told == records.len() as u64,
            "{} records, but the summary says {summary}",
            records.len()
        );
        ensure!(bytes_told == bytes, "{bytes} bytes in the records, but the summary says {summary}");
        Ok(())
    }
}

/// Parses only the type, because most lines of a large trace hold a megabyte of payload.
fn type_of(line: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Typed {
        schema: u32,
        r#type: String,
    }
    let typed: Typed =
        serde_json::from_slice(line).with_context(|| format!("not a record: {}", bstr(line)))?;
    ensure!(typed.schema == 1, "schema {} is not known to the tests", typed.schema);
    Ok(typed.r#type)
}

/// The beginning of a line, for an error message.
fn bstr(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..400).unwrap_or(line)).into_owned()
}
