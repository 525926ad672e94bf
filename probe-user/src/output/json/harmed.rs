//! The line of a process that a probe has harmed.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Meanings};
use crate::event::{Body, Context, HarmCause, Harmed, Library, Record, RecordKind};
use crate::output::signal_names;

/// A probe of ctrace has harmed a process, in scope or not: it got a signal, which usually ends it. ctrace
/// has detached at once, and its exit status is 1.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct HarmedBody<'a> {
    /// How.
    cause: HarmCause,
    /// The signal.
    signal: SignalPart<'a>,
    /// The function that has the probe; null when it is not known.
    function: Option<Cow<'a, str>>,
    /// The files that ctrace has detached from.
    detached: Vec<Cow<'a, Library>>,
}

/// A signal.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HarmSignal")]
struct SignalPart<'a> {
    /// Its number.
    number: u8,
    /// Its name, as signal(7) has it.
    name: Cow<'a, str>,
}

impl LineBody for HarmedBody<'_> {
    const KIND: RecordKind = RecordKind::Harmed;
    const TIME: &'static str = "When it got the signal, in UTC.";
    const ORIGIN: Meanings = &[("process", "The process."), ("thread", "The thread that got the signal.")];
}

impl<'a> HarmedBody<'a> {
    pub(super) fn new(harmed: &'a Harmed) -> Self {
        let name = signal_names::signal(harmed.signal).into();
        Self {
            cause: harmed.cause,
            signal: SignalPart { number: harmed.signal, name },
            function: harmed.function.as_deref().map(Cow::Borrowed),
            detached: harmed.detached.iter().map(|library| Cow::Borrowed(&**library)).collect(),
        }
    }

    /// The record of the line.
    pub(super) fn record(self, context: Context<'static>) -> Record<'static> {
        let Self { cause, signal, function, detached } = self;
        let detached = detached.into_iter().map(|library| Arc::new(library.into_owned())).collect();
        let function = function.map(Cow::into_owned);
        let harmed = Harmed { cause, signal: signal.number, function, detached };
        Record { context, body: Body::Harmed(harmed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::json::round_trip::round_trip;

    #[test]
    fn a_line_can_be_read_back() {
        let library = Library {
            name: "node".into(),
            path: "/usr/bin/node".into(),
            implementation: None,
            version: None,
        };
        let detached = vec![Arc::new(library)];
        let function = Some("SSL_write".to_owned());
        let harmed = Harmed { cause: HarmCause::CopiedCode, signal: 5, function, detached };
        let (text, read) = round_trip(&HarmedBody::new(&harmed));
        let body = concat!(
            r#""cause":"copied_code","signal":{"number":5,"name":"SIGTRAP"},"function":"SSL_write","#,
            r#""detached":[{"name":"node","path":"/usr/bin/node","implementation":null,"version":null}]}"#
        );
        assert!(text.ends_with(body), "{text}");
        match read {
            Body::Harmed(read) => assert_eq!(read, harmed),
            other => panic!("{other:?}"),
        }
    }
}
