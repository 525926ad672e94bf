//! Lines of a recording, whatever they are: they are read, written as text and as JSON, and go to streams.

use std::io;

use anyhow::{Context, Result, ensure};
use ctrace::event::Output;
use ctrace::output::{Options, RecordWriter, TextStyle, format};
use ctrace::pipeline::stream::{Piece, StreamLimits, Streams};
use ctrace::recording::{Recorded, RecordingReader};
use jiff::tz::TimeZone;

/// Reads lines. An error is a finding.
pub fn run(input: &[u8]) -> Result<()> {
    let mut outputs = [output("text")?, output("json")?];
    let mut streams = Streams::new(StreamLimits::default());
    let mut reader = RecordingReader::new(input);
    let mut records = 0;
    while let Some(recorded) = reader.next_record()? {
        records += 1;
        match recorded {
            Recorded::Record(record) => {
                outputs.iter_mut().try_for_each(|output| output.write(&record))?;
                if let Some(piece) = Piece::of(&record) {
                    streams.piece(&piece, &mut |_, _, _| Ok(()))?;
                }
            }
            Recorded::Summary(mut summary) => {
                outputs.iter_mut().try_for_each(|output| output.finish(&mut summary))?;
            }
        }
    }
    let counts = reader.counts();
    ensure!(counts.records == records && counts.bad + counts.others + records <= counts.lines, "{counts:?}");
    Ok(())
}

fn output(name: &str) -> Result<Box<dyn Output>> {
    let format = format(name).context("there is no such format")?;
    let options = Options { look: TextStyle::default(), zone: TimeZone::UTC };
    Ok((format.open)(RecordWriter::new(Box::new(io::sink())), options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_and_what_is_none_are_read() -> Result<()> {
        run(include_bytes!("../../probe-user/tests/data/records.jsonl"))?;
        run(include_bytes!("../../probe-user/tests/data/connections.jsonl"))?;
        run(b"\xff\n{}\n[")
    }
}
