//! The runtimes, asked again and again while a trace runs.
//!
//! Owns who is asked when. A runtime that owes an answer holds up nobody: what the others tell is told at
//! once, and they are asked again meanwhile. What each told last is told with every listing, so that it does
//! not matter in which order they answer. They are asked on threads of their own: an answer may be long, and
//! the ring fills while it is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::endpoint::{self, RuntimeEndpoint};
use super::{ALL, DetailLevel, Listing, PASSED_OVER, RuntimeReply, Unreachable, gather};
use crate::container::runtime::RuntimeSocket;

/// How long the others are waited for when one has answered: two runtimes tell of one container, which should
/// have its name at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often runtimes are asked at the most.
const PAUSE: Duration = Duration::from_millis(20);
/// The same while one owes its answer.
const LONGER_PAUSE: Duration = Duration::from_millis(100);

/// Protocol and address: one runtime.
type Key = (&'static str, String);

/// One runtime's answer.
struct Reply {
    key: Key,
    /// When it was asked.
    asked: Instant,
    endpoint: Arc<RuntimeEndpoint>,
    answer: Result<RuntimeReply, Unreachable>,
}

/// What is known of one runtime.
#[derive(Default)]
struct PollState {
    /// Whether it owes an answer.
    owes: bool,
    /// When it was asked what it answered last.
    asked: Option<Instant>,
    /// What it told last, if it has told anything.
    told: Option<(Arc<RuntimeEndpoint>, RuntimeReply)>,
    /// When it was asked what it did not answer in time.
    silent: Option<Instant>,
}

/// Asks the runtimes.
pub struct RuntimePoller {
    sockets: Vec<RuntimeSocket>,
    replies: JoinSet<Reply>,
    states: BTreeMap<Key, PollState>,
    /// When to ask again at the earliest.
    next: Instant,
    /// When to tell what was answered at the latest; none if there is nothing to tell.
    tell: Option<Instant>,
}

impl RuntimePoller {
    /// Has asked nobody yet. `sockets` are those that the user named.
    pub fn new(sockets: Vec<RuntimeSocket>) -> Self {
        let states = BTreeMap::new();
        Self { sockets, replies: JoinSet::new(), states, next: Instant::now(), tell: None }
    }

    /// Asks those that owe no answer, if it is time; to be called within tokio's runtime. One that did not
    /// answer in time is passed over for a while.
    pub fn ask(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        // What worked at the start is not an error now: whose address is not understood tells nothing.
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

    /// What the runtimes have told so far, when one of them has answered: with those that answer together
    /// with it. Cancel safe.
    pub async fn next(&mut self) -> Listing {
        loop {
            if self.tell.is_some_and(|latest| !self.is_pending() || Instant::now() >= latest) {
                self.tell = None;
                return self.listing();
            }
            let Self { replies, tell, .. } = self;
            tokio::select! {
                biased;
                // It fails only if a thread panicked, which is a bug that has been reported by then.
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
            // What it told before it fell silent holds still: nobody else may tell of its containers.
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

    /// Nobody has answered in time.
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
        // None while one owes its first answer: what came before need not be in what the others told.
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
