//! Asks the runtimes again and again while a trace runs.
//!
//! Owns when each of them is asked. A runtime that is slow to answer delays nobody: the answers of the others
//! are passed on at once, and they are asked again meanwhile. Every listing contains the last answer of each
//! runtime, so the order of the answers does not matter. The runtimes are asked on threads of their own,
//! because an answer may be long, and the ring fills up while it is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::endpoint::{self, RuntimeEndpoint};
use super::{ALL, DetailLevel, Listing, PASSED_OVER, RuntimeReply, Unreachable, gather};
use crate::container::runtime::RuntimeSocket;

/// How long to wait for the others after one has answered. Two runtimes may report the same container, which
/// should have its name at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// The shortest time between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);
/// The same while an answer is outstanding.
const LONGER_PAUSE: Duration = Duration::from_millis(100);

/// Protocol and address, which identify a runtime.
type Key = (&'static str, String);

struct Reply {
    key: Key,
    /// When the question was sent.
    queried_at: Instant,
    endpoint: Arc<RuntimeEndpoint>,
    answer: Result<RuntimeReply, Unreachable>,
}

/// The state of one runtime.
#[derive(Default)]
struct PollState {
    /// Whether an answer is outstanding.
    pending: bool,
    /// When the question was sent that it answered last.
    queried_at: Option<Instant>,
    /// Its last answer, if there was one.
    reply: Option<(Arc<RuntimeEndpoint>, RuntimeReply)>,
    /// When the question was sent that it did not answer in time.
    silent: Option<Instant>,
}

/// Asks the runtimes on threads of its own.
pub struct RuntimePoller {
    sockets: Vec<RuntimeSocket>,
    replies: JoinSet<Reply>,
    states: BTreeMap<Key, PollState>,
    /// When to ask again at the earliest.
    next: Instant,
    /// When to return the answers at the latest. None if there are no new answers.
    report_at: Option<Instant>,
}

impl RuntimePoller {
    /// A poller that has not asked anybody yet. `sockets` are those that the user named.
    pub fn new(sockets: Vec<RuntimeSocket>) -> Self {
        let states = BTreeMap::new();
        Self { sockets, replies: JoinSet::new(), states, next: Instant::now(), report_at: None }
    }

    /// Asks every runtime without an outstanding question, if it is time. Must be called within tokio's
    /// runtime. A runtime that did not answer in time is left out for a while.
    pub fn poll(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        // The addresses were valid at the start, so an error here is not reported.
        for endpoint in endpoint::endpoints(ALL, &self.sockets).unwrap_or_default() {
            let key = (endpoint.runtime.protocol, endpoint.address.to_string());
            let state = self.states.entry(key.clone()).or_default();
            let is_silent = state.silent.is_some_and(|since| now.duration_since(since) < PASSED_OVER);
            if state.pending || is_silent {
                continue;
            }
            state.pending = true;
            self.replies.spawn_blocking(move || {
                let endpoint = Arc::new(endpoint);
                Reply { key, queried_at: now, answer: query(&endpoint), endpoint }
            });
        }
        self.next = now + if self.is_pending() { LONGER_PAUSE } else { PAUSE };
    }

    /// The last answers of all runtimes, as soon as one of them has answered and those that answer together
    /// with it have done so too. Cancel safe.
    pub async fn next(&mut self) -> Listing {
        loop {
            if self.report_at.is_some_and(|latest| !self.is_pending() || Instant::now() >= latest) {
                self.report_at = None;
                return self.listing();
            }
            let Self { replies, report_at, .. } = self;
            tokio::select! {
                biased;
                // This fails only if a thread panicked. That is a bug, which the panic has reported already.
                Some(reply) = replies.join_next() => if let Ok(reply) = reply { self.take(reply) },
                () = at(*report_at) => (),
                else => std::future::pending().await,
            }
        }
    }

    fn is_pending(&self) -> bool {
        self.states.values().any(|state| state.pending)
    }

    fn take(&mut self, Reply { key, queried_at, endpoint, answer }: Reply) {
        let state = self.states.entry(key).or_default();
        state.pending = false;
        match answer {
            Ok(reply) => {
                *state = PollState {
                    queried_at: Some(queried_at),
                    reply: Some((endpoint, reply)),
                    ..PollState::default()
                };
            }
            // Its last answer stays valid: no other runtime may know of its containers.
            Err(error @ Unreachable::Silent(_)) => {
                state.silent = Some(queried_at);
                super::report(endpoint.runtime.name, &error);
            }
            Err(error) => {
                *state = PollState { queried_at: Some(queried_at), ..PollState::default() };
                super::report(endpoint.runtime.name, &error);
            }
        }
        self.report_at.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// Pretends that no runtime answered in time.
    #[cfg(test)]
    pub(super) fn silence(&mut self) {
        let queried_at = Instant::now();
        let answered: Vec<_> =
            self.states.iter().filter_map(|(key, state)| Some((key, state.reply.as_ref()?))).collect();
        let silent = answered.into_iter().map(|(key, (endpoint, _))| Reply {
            key: key.clone(),
            queried_at,
            endpoint: Arc::clone(endpoint),
            answer: Err(Unreachable::Silent(String::new())),
        });
        silent.collect::<Vec<_>>().into_iter().for_each(|reply| self.take(reply));
    }

    fn listing(&self) -> Listing {
        let mut answered: Vec<_> = self.states.values().filter_map(|state| state.reply.as_ref()).collect();
        answered.sort_by_key(|(endpoint, _)| ALL.iter().position(|one| one.name == endpoint.runtime.name));
        let answers =
            answered.into_iter().map(|(endpoint, reply)| (Arc::clone(endpoint), Ok(reply.clone()))).collect();
        let counts = |state: &&PollState| state.silent.is_none();
        // None while a first answer is outstanding: the other answers need not include what came before them.
        let queried_at = self.states.values().filter(counts).map(|state| state.queried_at).min().flatten();
        gather(answers, queried_at.map(Instant::into_std))
    }
}

/// Asks one runtime, and waits for its answer.
fn query(endpoint: &Arc<RuntimeEndpoint>) -> Result<RuntimeReply, Unreachable> {
    let failed = |source: std::io::Error| Unreachable::Failed {
        address: endpoint.address.to_string(),
        source: source.into(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on((endpoint.runtime.query)(Arc::clone(endpoint), DetailLevel::Facts))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
