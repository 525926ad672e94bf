//! Whether nothing is outstanding on a connection of which bytes were missed.
//!
//! Responses have no numbers. Which request one answers is only known if it is known that none before it was
//! outstanding. A client that sends one request at a time shows that by doing so: what it sends follows what
//! the server said, and the other way round. One that sends several ahead would have to keep exactly as many
//! in flight all the time to look the same, and never make a pause.

use std::time::Duration;

use jiff::Timestamp;

/// A client that is silent for this long after a response has nothing outstanding, if it does not pipeline.
const PAUSE: Duration = Duration::from_millis(100);
/// How often request and response have to alternate before such a pause.
const BEFORE_PAUSE: u32 = 2;
/// The same without a pause, if all are simple queries, which hardly any client pipelines.
const SIMPLE: u32 = 16;
/// The same if they are not. Whoever keeps just as many in flight for so long gets two answers at once some
/// time.
const EXTENDED: u32 = 64;

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum QueryForm {
    Simple,
    Extended,
}

/// What was seen since bytes were missed.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::protocol) struct IdleProof {
    /// The requests that were not answered, if no earlier ones were outstanding.
    outstanding: u32,
    alternations: u32,
    /// Whether one of those was in the extended protocol.
    has_extended: bool,
    pipelines: bool,
    /// The end of the last response.
    answered: Option<Timestamp>,
}

impl IdleProof {
    /// What is known of a client that had pipelined before bytes were missed.
    pub(in crate::protocol) fn of_pipelining_client() -> Self {
        Self { pipelines: true, ..Self::default() }
    }

    /// Forgets what is disproved by missing more.
    pub(in crate::protocol) fn restart(&mut self) {
        *self = Self { pipelines: self.pipelines, ..Self::default() };
    }

    /// Whether nothing is outstanding when a request begins at this time.
    pub(in crate::protocol) fn is_idle(&self, first: Timestamp) -> bool {
        let Some(answered) = self.answered else { return false };
        if self.outstanding > 0 || first <= answered {
            return false;
        }
        let paused = first.duration_since(answered).unsigned_abs() >= PAUSE;
        let needed = match (self.pipelines, paused, self.has_extended) {
            (true, false, _) => return false,
            (true, true, _) | (false, false, true) => EXTENDED,
            (false, false, false) => SIMPLE,
            (false, true, _) => BEFORE_PAUSE,
        };
        self.alternations >= needed
    }

    /// Handles a request that the server answers with one response.
    pub(in crate::protocol) fn request(&mut self, first: Timestamp, form: QueryForm) {
        if self.answered.is_some_and(|answered| first <= answered) {
            // It may have been answered by a response that was seen before it.
            (self.alternations, self.outstanding, self.has_extended) = (0, 0, false);
            return;
        }
        self.has_extended |= form == QueryForm::Extended;
        self.outstanding = self.outstanding.saturating_add(1);
        if self.outstanding > 1 {
            (self.pipelines, self.alternations) = (true, 0);
        }
    }

    /// Handles the end of a response.
    pub(in crate::protocol) fn response(&mut self, last: Timestamp) {
        self.answered = Some(last);
        if self.outstanding == 1 {
            self.alternations = self.alternations.saturating_add(1);
        } else {
            (self.alternations, self.has_extended) = (0, false);
        }
        self.outstanding = self.outstanding.saturating_sub(1);
    }
}
