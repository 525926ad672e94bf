//! The line of a process that had mapped a file before ctrace had attached to it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Meanings};
use crate::event::{Body, Context, Library, Missed, Record, RecordKind};

/// A process had mapped a file with functions to trace before ctrace had attached to it: its first calls may
/// be missing. What was mapped before the trace began is not reported.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct MissedBody<'a> {
    /// The file; null when the process ended before anybody could inspect what it had mapped, which may have
    /// such functions or not.
    library: Option<Cow<'a, Library>>,
    /// Nanoseconds from the mapping until ctrace had attached, or until the process ended.
    unattached: u64,
    /// Whether the process ended before ctrace had attached.
    ended: bool,
}

impl LineBody for MissedBody<'_> {
    const KIND: RecordKind = RecordKind::Missed;
    const TIME: &'static str = "When ctrace had attached, or the process ended, in UTC.";
    const ORIGIN: Meanings = &[("process", "The process."), ("thread", "Its main thread.")];
}

impl<'a> MissedBody<'a> {
    pub(super) fn new(missed: &'a Missed) -> Self {
        let &Missed { ref library, unattached, ended } = missed;
        let library = library.as_deref().map(Cow::Borrowed);
        Self { library, unattached: nanoseconds(unattached), ended }
    }

    /// The record of the line.
    pub(super) fn record(self, context: Context<'static>) -> Record<'static> {
        let Self { library, unattached, ended } = self;
        let library = library.map(|library| Arc::new(library.into_owned()));
        let missed = Missed { library, unattached: Duration::from_nanos(unattached), ended };
        Record { context, body: Body::Missed(missed) }
    }
}

/// A duration as the lines have it.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::json::round_trip::round_trip;

    #[test]
    fn a_line_can_be_read_back() {
        let name = "libssl.so.3".to_owned();
        let library = Library { name, path: "/lib/libssl.so.3".into(), implementation: None, version: None };
        let named = r#""library":{"name":"libssl.so.3","path":"/lib/libssl.so.3","implementation":null,"#;
        for (library, part) in [(Some(Arc::new(library)), named), (None, r#""library":null,"#)] {
            let missed = Missed { library, unattached: Duration::from_millis(3), ended: true };
            let (text, read) = round_trip(&MissedBody::new(&missed));
            assert!(text.contains(part) && text.ends_with(r#""unattached":3000000,"ended":true}"#), "{text}");
            match read {
                Body::Missed(read) => assert_eq!(read, missed),
                other => panic!("{other:?}"),
            }
        }
    }
}
