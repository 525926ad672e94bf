//! Asks the runtimes again and again while a trace runs.
//!
//! Owns when each of them is asked. A runtime that is slow to answer delays nobody: the answers of the others
//! are passed on at once, and they are asked again meanwhile. Every listing contains what each runtime has
//! answered last, so the order of the answers does not matter. The runtimes are asked on threads of their
//! own, because an answer may be long, and the ring fills up while it is read.
//!
//! A new container is asked for by its id, so that its cost does not depend on how many there are. All
//! containers are asked for first, and then at most every ten seconds: only that shows which have been
//! renamed or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::endpoint::{self, RuntimeEndpoint};
use super::{ALL, ContainerQuery, Listing, PASSED_OVER, RuntimeReply, Unreachable, gather};
use crate::container::runtime::RuntimeSocket;

/// How long to wait for the others after one has answered. Two runtimes may report the same container, which
/// should have its name at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// The shortest time between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);
/// The same while an answer is outstanding.
const LONGER_PAUSE: Duration = Duration::from_millis(100);

/// How long all containers of a runtime are not asked for again because of single ones.
const ALL_VALID: Duration = Duration::from_secs(10);

/// Protocol and address, which identify a runtime.
type Key = (&'static str, String);

struct Reply {
    key: Key,
    /// When the question was sent.
    queried_at: Instant,
    /// The ids of the containers that it was about, if it was not about all.
    ids: Option<BTreeSet<String>>,
    endpoint: Arc<RuntimeEndpoint>,
    answer: Result<RuntimeReply, Unreachable>,
}

/// The state of one runtime.
#[derive(Default)]
struct PollState {
    /// Whether an answer is outstanding.
    pending: bool,
    /// When the question about all containers was sent that it answered last.
    queried_at: Option<Instant>,
    /// When later questions about single containers were sent that it has answered, by id.
    queried_later: BTreeMap<String, Instant>,
    /// What it has answered last about each container, if it has answered.
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
    /// What the new answers are about.
    news: News,
}

/// What answers are about.
#[derive(Debug)]
enum News {
    AllContainers,
    Ids(BTreeSet<String>),
}

impl Default for News {
    fn default() -> Self {
        Self::Ids(BTreeSet::new())
    }
}

impl News {
    fn add(&mut self, ids: Option<BTreeSet<String>>) {
        match (&mut *self, ids) {
            (Self::Ids(all), Some(ids)) => all.extend(ids),
            (_, None) => *self = Self::AllContainers,
            (Self::AllContainers, _) => {}
        }
    }
}

impl PollState {
    /// The ids to ask for: those of the question, unless all containers have to be asked for.
    fn ids(&self, query: &ContainerQuery, now: Instant) -> Option<BTreeSet<String>> {
        let is_recent = self.queried_at.is_some_and(|at| now.duration_since(at) < ALL_VALID);
        query.ids().filter(|_| is_recent && self.reply.is_some()).cloned()
    }

    /// Since when everything about a container is in the reply. None while the first answer is outstanding.
    fn queried_at(&self, id: &str) -> Option<Instant> {
        self.queried_at.max(self.queried_later.get(id).copied())
    }

    /// Takes an answer about single containers.
    fn update(&mut self, ids: &BTreeSet<String>, queried_at: Instant, new: RuntimeReply) {
        let Some((_, reply)) = &mut self.reply else { return };
        reply.containers.retain(|container| !ids.contains(&container.id));
        let asked_for = new.containers.into_iter().filter(|container| ids.contains(&container.id));
        reply.containers.extend(asked_for);
        self.queried_later.extend(ids.iter().map(|id| (id.clone(), queried_at)));
        self.silent = None;
    }
}

impl RuntimePoller {
    /// A poller that has not asked anybody yet. `sockets` are those that the user named.
    pub fn new(sockets: Vec<RuntimeSocket>) -> Self {
        let states = BTreeMap::new();
        let news = News::default();
        Self { sockets, replies: JoinSet::new(), states, next: Instant::now(), report_at: None, news }
    }

    /// Asks every runtime without an outstanding question, if it is time. Must be called within tokio's
    /// runtime. A runtime that did not answer in time is left out for a while, and one that was not asked for
    /// all of its containers lately is asked for them.
    pub fn poll(&mut self, query: &ContainerQuery) {
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
            let ids = state.ids(query, now);
            self.replies.spawn_blocking(move || {
                let endpoint = Arc::new(endpoint);
                let query = ids.clone().map_or(ContainerQuery::Facts, ContainerQuery::FactsOf);
                Reply { key, queried_at: now, ids, answer: ask(&endpoint, query), endpoint }
            });
        }
        self.next = now + if self.is_pending() { LONGER_PAUSE } else { PAUSE };
    }

    /// The last answers of all runtimes, as soon as one of them has answered and those that answer together
    /// with it have done so too. If they are about single containers, the listing has only these. Cancel
    /// safe.
    pub async fn next(&mut self) -> Listing {
        loop {
            if self.report_at.is_some_and(|latest| !self.is_pending() || Instant::now() >= latest) {
                self.report_at = None;
                return match std::mem::take(&mut self.news) {
                    News::AllContainers => self.listing(),
                    News::Ids(ids) => self.partial_listing(&ids),
                };
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

    fn take(&mut self, Reply { key, queried_at, ids, endpoint, answer }: Reply) {
        let state = self.states.entry(key).or_default();
        state.pending = false;
        let had_answered = state.queried_at.is_none() || state.reply.is_some();
        self.news.add(match &answer {
            Ok(_) => ids.clone(),
            // What it had answered may count no longer.
            Err(_) if had_answered => None,
            Err(_) => Some(BTreeSet::new()),
        });
        match (answer, ids) {
            (Ok(reply), Some(ids)) => state.update(&ids, queried_at, reply),
            (Ok(reply), None) => {
                *state = PollState {
                    queried_at: Some(queried_at),
                    reply: Some((endpoint, reply)),
                    ..PollState::default()
                };
            }
            // Its last answer stays valid: no other runtime may know of its containers.
            (Err(error @ Unreachable::Silent(_)), _) => {
                state.silent = Some(queried_at);
                super::report(endpoint.runtime.name, &error);
            }
            (Err(error), _) => {
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
            ids: None,
            endpoint: Arc::clone(endpoint),
            answer: Err(Unreachable::Silent(String::new())),
        });
        silent.collect::<Vec<_>>().into_iter().for_each(|reply| self.take(reply));
    }

    fn listing(&self) -> Listing {
        let answers = self.answered().into_iter();
        let answers = answers.map(|(endpoint, reply)| (Arc::clone(endpoint), Ok(reply.clone()))).collect();
        let queried_at = self.counting().map(|state| state.queried_at).min().flatten();
        gather(answers, queried_at.map(Instant::into_std))
    }

    fn partial_listing(&self, ids: &BTreeSet<String>) -> Listing {
        let of_ids = |(endpoint, reply): &(Arc<RuntimeEndpoint>, RuntimeReply)| {
            let containers = reply.containers.iter().filter(|container| ids.contains(&container.id));
            let reply = RuntimeReply {
                runtime: reply.runtime,
                version: reply.version.clone(),
                containers: containers.cloned().collect(),
            };
            (Arc::clone(endpoint), Ok(reply))
        };
        let answers = self.answered().into_iter().map(of_ids).collect();
        let queried_at = |id: &String| {
            let queried_at = self.counting().map(|state| state.queried_at(id)).min().flatten();
            (id.clone(), queried_at.map(Instant::into_std))
        };
        Listing { partial: Some(ids.iter().map(queried_at).collect()), ..gather(answers, None) }
    }

    /// The runtimes that have answered, in the order of [`ALL`].
    fn answered(&self) -> Vec<&(Arc<RuntimeEndpoint>, RuntimeReply)> {
        let mut answered: Vec<_> = self.states.values().filter_map(|state| state.reply.as_ref()).collect();
        answered.sort_by_key(|(endpoint, _)| ALL.iter().position(|one| one.name == endpoint.runtime.name));
        answered
    }

    /// The runtimes whose answers are waited for. While a first answer is outstanding, the others need not
    /// include what came before them.
    fn counting(&self) -> impl Iterator<Item = &PollState> {
        self.states.values().filter(|state| state.silent.is_none())
    }
}

/// Asks one runtime, and waits for its answer.
fn ask(endpoint: &Arc<RuntimeEndpoint>, query: ContainerQuery) -> Result<RuntimeReply, Unreachable> {
    let failed = |source: std::io::Error| Unreachable::Failed {
        address: endpoint.address.to_string(),
        source: source.into(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on((endpoint.runtime.query)(Arc::clone(endpoint), query))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
