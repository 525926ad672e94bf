//! Which request a response answers, in protocols whose responses name their requests by a number.
//!
//! The number is the client's, and a client may use one several times. Responses come in the order of the
//! requests, or one at a time. After a loss of requests, a number that was used before proves nothing.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Hints;

/// The most requests that wait for their responses.
const MAX_PENDING: usize = 1024;

/// A request that was not answered yet.
#[derive(Clone, Debug)]
pub(super) struct NumberedRequest<T> {
    pub(super) id: u64,
    number: u32,
    time: Timestamp,
    /// What is to be known of it when it is answered.
    pub(super) what: T,
}

/// The request that a response answers.
#[derive(Clone, Debug)]
pub(super) enum Correlated<T> {
    To(NumberedRequest<T>),
    /// It was not seen yet.
    Wait,
    /// That cannot be determined.
    Unknown,
}

/// The requests of a connection that wait for their responses.
#[derive(Debug)]
pub(super) struct Correlation<T> {
    pending: VecDeque<NumberedRequest<T>>,
    /// The number of requests, which is the id of the last one.
    requests: u64,
    /// The requests up to this id were followed by a loss of others. None if all were seen.
    lost_after: Option<u64>,
    /// The number of the last request.
    last_number: Option<u32>,
    /// Whether a number was used again.
    repeats: bool,
}

impl<T> Correlation<T> {
    pub(super) fn new(hints: &Hints) -> Self {
        let lost_after = (!hints.from_start).then_some(0);
        Self { pending: VecDeque::new(), requests: 0, lost_after, last_number: None, repeats: false }
    }

    /// The id of a request that is not answered.
    pub(super) fn unanswered(&mut self) -> u64 {
        self.requests = self.requests.saturating_add(1);
        self.requests
    }

    /// A request was sent that is answered. Returns its id.
    pub(super) fn request(&mut self, number: u32, time: Timestamp, what: T) -> u64 {
        let id = self.unanswered();
        self.repeats |= self.last_number == Some(number) || self.is_pending(number);
        self.last_number = Some(number);
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
            self.lost_after = Some(id);
        }
        self.pending.push_back(NumberedRequest { id, number, time, what });
        id
    }

    /// A response begins.
    pub(super) fn response(&mut self, number: u32, time: Timestamp) -> Correlated<T> {
        let is_exact = self.lost_after.is_none();
        let found = self.pending.iter().position(|pending| pending.number == number);
        let Some(index) = found else {
            return if is_exact { Correlated::Wait } else { Correlated::Unknown };
        };
        let Some(found) = self.pending.remove(index) else { return Correlated::Unknown };
        // The ones before it will not be answered any more.
        self.pending.drain(..index);
        // Nothing is answered before it is asked, and the number of a request that is missing may be the
        // same.
        if found.time > time || (self.repeats && !is_exact) {
            self.lose_requests();
            return Correlated::Unknown;
        }
        if self.lost_after.is_some_and(|lost| found.id > lost) {
            self.lost_after = None;
        }
        Correlated::To(found)
    }

    /// Whether a request of this number waits.
    pub(super) fn is_pending(&self, number: u32) -> bool {
        self.pending.iter().any(|pending| pending.number == number)
    }

    /// Requests may be missing.
    pub(super) fn lose_requests(&mut self) {
        self.lost_after = Some(self.requests);
    }

    pub(super) fn size(&self) -> usize {
        self.pending.capacity() * size_of::<NumberedRequest<T>>()
    }
}
