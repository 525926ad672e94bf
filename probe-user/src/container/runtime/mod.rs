//! Container runtimes: which containers there are, and what they are called.
//!
//! Owns the questions that are put to runtimes, and the time that they have for an answer. A runtime only
//! contributes names: without one, everything works by ids. Runtimes are never asked to start, stop or change
//! a container.
//!
//! Precedence: a socket that another user of the machine may have created contributes only containers that no
//! other runtime reports. A runtime that itself runs in a container (Docker in Docker, kind) reports
//! containers below that container's cgroup, and its pids mean nothing here.

mod container_info;
mod containerd;
mod cri;
mod details;
mod docker;
mod docker_api;
mod endpoint;
mod grpc;
mod image_queries;
mod images;
mod labels;
mod merge;
mod oci_spec;
mod podman;
mod poller;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use container_info::{ContainerInfo, Gaps, InfoSource};
pub use details::{Details, MountPoint, Overlay, Snapshot};
pub use images::{Extent, ImageNames};
pub use labels::{compose_project, compose_service};
pub use poller::RuntimePoller;

use crate::proc::cgroup::is_id;
use crate::terminal::escaped;
use endpoint::{Owner, RuntimeEndpoint};

/// The address of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSocket {
    /// The runtime's name.
    pub runtime: String,
    /// The path of its socket, or a URL (`unix://`, `tcp://`).
    pub address: String,
}

/// How long a runtime may take for all of its answers to one question. One that is starting on a busy machine
/// needs seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a runtime is left out, counted from the question that it did not answer in time, while a trace
/// runs. A daemon that is being restarted does not answer either, and may start containers meanwhile. Those
/// that are selected by something that only this daemon knows are not traced until it is asked again.
const PASSED_OVER: Duration = Duration::from_secs(8);
/// Limit of the containers that are taken from one runtime.
const CONTAINERS: usize = 100_000;

/// Every runtime that is asked. A new one needs a file and a line here. If two report the same container, the
/// one that comes first here takes precedence.
pub const ALL: &[RuntimeClient] = &[docker::RUNTIME, podman::RUNTIME, cri::RUNTIME, containerd::RUNTIME];

/// The client for one kind of runtime.
#[derive(Debug)]
pub struct RuntimeClient {
    /// The name for `--runtime-socket` and events.
    pub name: &'static str,
    /// The protocol of its sockets. Of two runtimes with one protocol, only one is asked at a socket that
    /// they share.
    protocol: &'static str,
    /// The paths of its usual sockets.
    sockets: &'static [&'static str],
    /// The path of its socket when a user has started it, below that user's runtime directory.
    user_socket: Option<&'static str>,
    /// The environment variable that may contain its address.
    variable: Option<&'static str>,
    /// Asks for the runtime's identity and its containers, including those that do not run.
    query: fn(Arc<RuntimeEndpoint>, ContainerQuery) -> Answer<RuntimeReply>,
    /// Asks for the details of one container.
    describe: fn(InfoSource, String) -> Answer<Details>,
}

/// What a runtime is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerQuery {
    /// All containers.
    All,
    /// Facts about all containers, without their state. containerd asks each container's shim for the state,
    /// which takes some hundred milliseconds while others start.
    Facts,
    /// The same about the containers with these ids, which are hexadecimal. The answer takes as long whatever
    /// the number of containers that the runtime has. It may contain others.
    FactsOf(BTreeSet<String>),
}

impl ContainerQuery {
    /// Limit of the ids in one question. About more, all containers are asked for.
    const IDS: usize = 16;

    /// Asks for the facts about containers with these ids.
    pub(in crate::container) fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut wanted = BTreeSet::new();
        for id in ids {
            if wanted.len() >= Self::IDS || !is_id(id) {
                return Self::Facts;
            }
            wanted.insert(id.to_owned());
        }
        Self::FactsOf(wanted)
    }

    /// The ids, if not all containers are asked for.
    fn ids(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::All | Self::Facts => None,
            Self::FactsOf(ids) => Some(ids),
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Unreachable>> + Send>>;

/// The answer of a runtime.
#[derive(Clone, Debug)]
struct RuntimeReply {
    /// The name of the runtime that answered: a socket where Docker is expected may be Podman's.
    runtime: &'static str,
    version: String,
    containers: Vec<ContainerInfo>,
}

/// Why a runtime did not answer.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    /// Nothing listens there: the runtime is simply not in use.
    #[error("nothing listens at {0:?}")]
    Absent(String),
    /// The connection is accepted, but no answer comes.
    #[error("no answer from {0:?} within {TIMEOUT:?}")]
    Silent(String),
    /// Something else listens there, or the service is not enabled: containerd without its CRI plugin.
    #[error("the server at {0:?} does not offer this API")]
    Unserved(String),
    /// The answer could not be used.
    #[error("could not list containers at {address:?}")]
    Failed {
        address: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Unreachable {
    /// The error with its causes, of which the last is usually the most helpful.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let cause_text = error.to_string();
            if !text.ends_with(&cause_text) {
                // Writing to a String cannot fail.
                let _ = write!(text, ": {}", escaped(&cause_text));
            }
            cause = error.source();
        }
        text
    }
}

/// Why a runtime that the user named cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime is not in [`ALL`].
    #[error("unknown runtime {runtime:?}: --runtime-socket takes RUNTIME=ADDRESS, with one of {supported}")]
    Unknown {
        /// As the user wrote it.
        runtime: String,
        /// The names of the runtimes in [`ALL`].
        supported: String,
    },
    /// The runtime does not answer.
    #[error("could not query {runtime} at {address:?} (--runtime-socket): {why}; {advice}")]
    Unreachable {
        /// The name of the runtime.
        runtime: &'static str,
        /// The address of its socket.
        address: String,
        /// The reason, escaped.
        why: String,
        /// Advice for the user.
        advice: &'static str,
    },
}

/// The containers of all runtimes that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The containers in the order of [`ALL`], then in that of the runtime. A container that several runtimes
    /// report appears once.
    pub containers: Vec<ContainerInfo>,
    /// The names of the runtimes that answered.
    pub answered: Vec<&'static str>,
    /// Why the other runtimes did not answer, for a message: one text for each.
    pub unanswered: Vec<Arc<str>>,
    /// When the question was sent: the answers need not include anything later. None if that is not clear.
    pub queried_at: Option<Instant>,
    /// If only some containers were asked for: their ids, and the same for each. `queried_at` is None then,
    /// and other containers are missing in the listing although they may exist.
    pub partial: Option<BTreeMap<String, Option<Instant>>>,
}

impl Listing {
    /// Whether the answers include everything about a container that the runtimes had to say at this time.
    pub fn includes(&self, id: &str, time: Instant) -> bool {
        let queried_at = match &self.partial {
            None => self.queried_at,
            Some(ids) => match ids.get(id) {
                Some(queried_at) => *queried_at,
                None => return false,
            },
        };
        queried_at.is_none_or(|queried_at| time <= queried_at)
    }
}

/// A place where a runtime may listen, and the result of asking there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// The runtime that is expected there.
    pub runtime: &'static str,
    /// Its address, a URL.
    pub address: String,
    /// The result.
    pub state: RuntimeState,
}

/// The result of asking a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// Nothing listens there.
    Absent,
    /// The runtime answered.
    Answered {
        /// The runtime that answered.
        runtime: &'static str,
        /// Its version, as it reports it.
        version: String,
        /// The number of its containers, including those that do not run.
        containers: usize,
    },
    /// It accepts connections but does not answer in time.
    Silent,
    /// It cannot be asked. Contains the reason, escaped.
    Failed(String),
}

/// Asks all runtimes at the same time, for at most five seconds. A runtime that is absent or not served is
/// ignored; any other failure is a warning. The `sockets` replace the usual places of their runtimes; if one
/// of them does not answer, that is an error.
pub async fn list(sockets: &[RuntimeSocket]) -> Result<Listing, RuntimeError> {
    let queried_at = Instant::now();
    let answers = query_all(sockets).await?;
    for (endpoint, answer) in &answers {
        if let (Owner::Named, Err(error)) = (&endpoint.owner, answer) {
            return Err(unreachable(endpoint, error));
        }
    }
    Ok(gather(answers, Some(queried_at)))
}

fn gather(answers: Answered, queried_at: Option<Instant>) -> Listing {
    let mut answered: Vec<(Owner, RuntimeReply)> = Vec::new();
    let mut unanswered: Vec<(&'static str, Vec<Unreachable>)> = Vec::new();
    for (endpoint, answer) in answers {
        let name = endpoint.runtime.name;
        match answer {
            Ok(reply) => answered.push((endpoint.owner.clone(), reply)),
            Err(error) => {
                report(name, &error);
                match unanswered.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, errors)) => errors.push(error),
                    None => unanswered.push((name, vec![error])),
                }
            }
        }
    }
    let mut names: Vec<&'static str> = Vec::new();
    for (_, reply) in &answered {
        if !names.contains(&reply.runtime) {
            names.push(reply.runtime);
        }
    }
    unanswered.retain(|(name, _)| !names.contains(name));
    let why = |(name, errors): &(&str, Vec<Unreachable>)| {
        let each: Vec<String> = errors.iter().map(Unreachable::chain).collect();
        Arc::from(format!("{name}: {}", each.join(", ")))
    };
    Listing {
        unanswered: unanswered.iter().map(why).collect(),
        containers: merge::merge(answered),
        answered: names,
        queried_at,
        partial: None,
    }
}

/// The result of asking at every place where a runtime may listen. That one of them does not answer is not an
/// error.
pub async fn endpoints(sockets: &[RuntimeSocket]) -> Result<Vec<EndpointState>, RuntimeError> {
    let state =
        |(endpoint, answer): (Arc<RuntimeEndpoint>, Result<RuntimeReply, Unreachable>)| EndpointState {
            runtime: endpoint.runtime.name,
            address: endpoint.address.to_string(),
            state: match answer {
                Ok(RuntimeReply { runtime, version, containers }) => {
                    RuntimeState::Answered { runtime, version, containers: containers.len() }
                }
                Err(Unreachable::Absent(_) | Unreachable::Unserved(_)) => RuntimeState::Absent,
                Err(Unreachable::Silent(_)) => RuntimeState::Silent,
                Err(error @ Unreachable::Failed { .. }) => RuntimeState::Failed(error.chain()),
            },
        };
    Ok(query_all(sockets).await?.into_iter().map(state).collect())
}

/// The first process of a container, according to its runtime.
pub async fn init(container: &ContainerInfo) -> Option<u32> {
    match container.pid {
        Some(pid) => Some(pid),
        None => describe(container).await?.init,
    }
}

/// The details of a container, according to its runtimes. None if none of them answers.
pub async fn describe(container: &ContainerInfo) -> Option<Details> {
    let mut found: Option<Details> = None;
    for source in &container.sources {
        let runtime = source.endpoint.runtime;
        match (runtime.describe)(source.clone(), container.id.clone()).await {
            Ok(details) => match &mut found {
                Some(merged) => merged.add(details),
                None => found = Some(details),
            },
            Err(error) => report(runtime.name, &error),
        }
    }
    found
}

type Answered = Vec<(Arc<RuntimeEndpoint>, Result<RuntimeReply, Unreachable>)>;

/// Asks at all addresses at the same time.
async fn query_all(sockets: &[RuntimeSocket]) -> Result<Answered, RuntimeError> {
    let mut queries = JoinSet::new();
    for (index, endpoint) in endpoint::endpoints(ALL, sockets)?.into_iter().enumerate() {
        let endpoint = Arc::new(endpoint);
        queries.spawn(async move {
            let answer = (endpoint.runtime.query)(Arc::clone(&endpoint), ContainerQuery::All).await;
            (index, (endpoint, answer))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = queries.join_next().await {
        // This fails only if a task panicked. That is a bug, which the panic has reported already.
        answers.extend(answer);
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

fn unreachable(endpoint: &RuntimeEndpoint, error: &Unreachable) -> RuntimeError {
    RuntimeError::Unreachable {
        runtime: endpoint.runtime.name,
        address: endpoint.address.to_string(),
        why: error.chain(),
        advice: match error {
            Unreachable::Absent(_) => "start it, or give the right address",
            Unreachable::Silent(_) => "check whether it hangs",
            Unreachable::Unserved(_) | Unreachable::Failed { .. } => {
                "check that this is its socket, and that you may connect to it"
            }
        },
    }
}

/// Warns about each runtime only once, because runtimes are asked again and again while a trace runs.
fn report(name: &'static str, error: &Unreachable) {
    static WARNED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if let Unreachable::Absent(_) | Unreachable::Unserved(_) = error {
        tracing::debug!("{name}: {error}");
        return;
    }
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        tracing::warn!("{name}: {}; its containers can be selected by id only", error.chain());
    }
}

#[cfg(test)]
mod tests;
