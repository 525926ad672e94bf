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
    asked: Instant,
    endpoint: Arc<RuntimeEndpoint>,
    answer: Result<RuntimeReply, Unreachable>,
}

/// The state of one runtime.
#[derive(Default)]
struct PollState {
    /// Whether an answer is outstanding.
    owes: bool,
    /// When the question was sent that it answered last.
    asked: Option<Instant>,
    /// Its last answer, if there was one.
    told: Option<(Arc<RuntimeEndpoint>, RuntimeReply)>,
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
    tell: Option<Instant>,
}

impl RuntimePoller {
    /// A poller that has not asked anybody yet. `sockets` are those that the user named.
    pub fn new(sockets: Vec<RuntimeSocket>) -> Self {
        let states = BTreeMap::new();
        Self { sockets, replies: JoinSet::new(), states, next: Instant::now(), tell: None }
    }

    /// Asks every runtime without an outstanding question, if it is time. Must be called within tokio's
    /// runtime. A runtime that did not answer in time is left out for a while.
    pub fn ask(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        // The addresses were valid at the start, so an error here is not reported.
        for endpoint in endpoint::endpoints(ALL, &self.sockets).unwrap_or_default() {
            let key = (endpoint.runtime.protocol, endpoint.address.to_string());
            let state = self.states.entry(key.clone()).or_default();
            let is_silent = state.silent.is_some_and(|since| now.duration_since(since) < PASSED_OVER);
            if state.owes || is_silent {
                continue;
            }
            state.owes = true;
            self.replies.spawn_blocking(move || {
                let endpoint = Arc::new(endpoint);
                Reply { key, asked: now, answer: ask(&endpoint), endpoint }
            });
        }
        self.next = now + if self.is_pending() { LONGER_PAUSE } else { PAUSE };
    }

    /// The last answers of all runtimes, as soon as one of them has answered and those that answer together
    /// with it have done so too. Cancel safe.
    pub async fn next(&mut self) -> Listing {
        loop {
            if self.tell.is_some_and(|latest| !self.is_pending() || Instant::now() >= latest) {
                self.tell = None;
                return self.listing();
            }
            let Self { replies, tell, .. } = self;
            tokio::select! {
                biased;
                // This fails only if a thread panicked. That is a bug, which the panic has reported already.
                Some(reply) = replies.join_next() => if let Ok(reply) = reply { self.take(reply) },
                () = at(*tell) => (),
                else => std::future::pending().await,
            }
        }
    }

    fn is_pending(&self) -> bool {
        self.states.values().any(|state| state.owes)
    }

    fn take(&mut self, Reply { key, asked, endpoint, answer }: Reply) {
        let state = self.states.entry(key).or_default();
        state.owes = false;
        match answer {
            Ok(told) => {
                *state =
                    PollState { asked: Some(asked), told: Some((endpoint, told)), ..PollState::default() };
            }
            // Its last answer stays valid: no other runtime may know of its containers.
            Err(error @ Unreachable::Silent(_)) => {
                state.silent = Some(asked);
                super::report(endpoint.runtime.name, &error);
            }
            Err(error) => {
                *state = PollState { asked: Some(asked), ..PollState::default() };
                super::report(endpoint.runtime.name, &error);
            }
        }
        self.tell.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// Pretends that no runtime answered in time.
    #[cfg(test)]
    pub(super) fn silence(&mut self) {
        let asked = Instant::now();
        let told: Vec<_> =
            self.states.iter().filter_map(|(key, state)| Some((key, state.told.as_ref()?))).collect();
        let silent = told.into_iter().map(|(key, (endpoint, _))| Reply {
            key: key.clone(),
            asked,
            endpoint: Arc::clone(endpoint),
            answer: Err(Unreachable::Silent(String::new())),
        });
        silent.collect::<Vec<_>>().into_iter().for_each(|reply| self.take(reply));
    }

    fn listing(&self) -> Listing {
        let mut told: Vec<_> = self.states.values().filter_map(|state| state.told.as_ref()).collect();
        told.sort_by_key(|(endpoint, _)| ALL.iter().position(|one| one.name == endpoint.runtime.name));
        let answers =
            told.into_iter().map(|(endpoint, told)| (Arc::clone(endpoint), Ok(told.clone()))).collect();
        let counts = |state: &&PollState| state.silent.is_none();
        // None while a first answer is outstanding: the other answers need not include what came before them.
        let asked = self.states.values().filter(counts).map(|state| state.asked).min().flatten();
        gather(answers, asked.map(Instant::into_std))
    }
}

/// Asks one runtime, and waits for its answer.
fn ask(endpoint: &Arc<RuntimeEndpoint>) -> Result<RuntimeReply, Unreachable> {
    let failed = |source: std::io::Error| Unreachable::Failed {
        address: endpoint.address.to_string(),
        source: source.into(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on((endpoint.runtime.ask)(Arc::clone(endpoint), DetailLevel::Facts))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
