//! An output that writes each record twice: at once, and later from a copy that borrows nothing.

use std::io;

use ctrace::event::{Output, Record, RecordKind, Summary};
use ctrace::output::{Options, RecordWriter, format};

use super::Shared;

/// Fails when the copies are written otherwise than the records were.
#[derive(Debug)]
struct WrittenTwice {
    at_once: (Box<dyn Output>, Shared),
    later: (Box<dyn Output>, Shared),
    kept: Vec<Record<'static>>,
}

/// An output of this format to `shared`.
pub(super) fn output(name: &str, shared: &Shared, options: Options) -> Box<dyn Output> {
    let open = |shared: Shared, options| {
        ((format(name).unwrap().open)(RecordWriter::new(Box::new(shared.clone())), options), shared)
    };
    let at_once = open(shared.clone(), options.clone());
    Box::new(WrittenTwice { at_once, later: open(Shared::default(), options), kept: Vec::new() })
}

impl WrittenTwice {
    fn write_kept(&mut self) -> io::Result<()> {
        self.kept.drain(..).try_for_each(|record| self.later.0.write(&record))
    }

    fn compare(&self) {
        let [at_once, later] = [&self.at_once, &self.later].map(|(_, bytes)| bytes.0.lock().unwrap().clone());
        let shown = [&at_once, &later].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(at_once == later, "at once:\n{}\nlater:\n{}", shown[0], shown[1]);
    }
}

impl Output for WrittenTwice {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.kept.push(record.clone().into_owned());
        self.at_once.0.write(record)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.at_once.0.flush()?;
        self.write_kept()?;
        self.later.0.flush()?;
        self.compare();
        Ok(())
    }

    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        self.at_once.0.finish(summary)?;
        self.write_kept()?;
        self.later.0.finish(summary)?;
        self.compare();
        Ok(())
    }
}

#[test]
fn every_kind_of_record_is_in_what_is_checked_in() {
    let recorded = [
        include_str!("../data/records.jsonl"),
        include_str!("../data/exec.jsonl"),
        include_str!("../data/functions.jsonl"),
        include_str!("../data/connections.jsonl"),
        include_str!("../data/missed.jsonl"),
        include_str!("../data/requests.jsonl"),
        include_str!("../data/request-stats.jsonl"),
    ];
    let kind = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].clone();
    let kinds: Vec<_> = recorded.iter().flat_map(|recorded| recorded.lines()).map(kind).collect();
    for kind in RecordKind::ALL {
        assert!(kinds.contains(&serde_json::to_value(kind).unwrap()), "{kind:?}");
    }
}
