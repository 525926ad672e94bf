//! Container runtimes: what containers are called, which are there.
//!
//! Owns the questions that are put to them, and the time that they get to answer. A runtime only gives
//! names: everything works by ids without one. It never starts, stops or changes a container.
//!
//! Whom to believe: a socket that another user of the machine may have made tells of containers that no other
//! runtime knows, and never anything of one that another knows. A runtime that itself runs in a container
//! (Docker in Docker, kind) tells of containers below that one's cgroup, and its pids mean nothing here.

mod asked;
mod container_info;
mod containerd;
mod cri;
mod details;
mod docker;
mod docker_api;
mod endpoint;
mod grpc;
mod images;
mod labels;
mod merge;
mod oci_spec;
mod podman;
mod poller;
mod transport;

use std::collections::BTreeSet;
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

use crate::terminal::escaped;
use endpoint::{Owner, RuntimeEndpoint};

/// Where a runtime listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSocket {
    /// The runtime's name.
    pub runtime: String,
    /// Path of its socket, or a URL (`unix://`, `tcp://`).
    pub address: String,
}

/// What a runtime gets for all of its answers to one question: one that starts on a busy machine needs
/// seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after it was asked a runtime that did not answer in time is not asked again while a trace runs. A
/// daemon that is being started again is as silent, and has by then started the containers that it is to
/// start: those that are chosen by what only it knows are not traced until it is asked.
const PASSED_OVER: Duration = Duration::from_secs(8);
/// Containers that are taken from one runtime.
const CONTAINERS: usize = 100_000;

/// Every runtime that is asked: a new one is a file and a line here. What an earlier one says of a container
/// goes before what a later one says of the same.
pub const ALL: &[RuntimeClient] = &[docker::RUNTIME, podman::RUNTIME, cri::RUNTIME, containerd::RUNTIME];

/// A way to ask one kind of runtime.
#[derive(Debug)]
pub struct RuntimeClient {
    /// As `--runtime-socket` and events name it.
    pub name: &'static str,
    /// What is spoken at its sockets: two runtimes of one protocol are not both asked at one socket.
    protocol: &'static str,
    /// Paths at which it listens.
    sockets: &'static [&'static str],
    /// Where it listens when a user has started it, below that user's runtime directory.
    user_socket: Option<&'static str>,
    /// The environment variable that says where it listens.
    variable: Option<&'static str>,
    /// Who it is, and all of its containers, also those that do not run.
    ask: fn(Arc<RuntimeEndpoint>, DetailLevel) -> Answer<RuntimeReply>,
    /// One container.
    describe: fn(InfoSource, String) -> Answer<Details>,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DetailLevel {
    /// Everything.
    All,
    /// What containers are, and not how they do: containerd asks each container's shim for that, which takes
    /// some hundred milliseconds while others start.
    Facts,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Unreachable>> + Send>>;

/// What a runtime says of itself.
#[derive(Clone, Debug)]
struct RuntimeReply {
    /// Its own name: what answers where Docker is expected may be Podman.
    runtime: &'static str,
    version: String,
    containers: Vec<ContainerInfo>,
}

/// A runtime did not answer.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    /// Nobody listens there: it is simply not in use.
    #[error("nothing listens at {0:?}")]
    Absent(String),
    /// Somebody listens and accepts, and says nothing.
    #[error("no answer from {0:?} in {TIMEOUT:?}")]
    Silent(String),
    /// Somebody else listens there, or does not serve it: containerd without its CRI plugin.
    #[error("what listens at {0:?} does not serve this")]
    Unserved(String),
    /// An answer that is none.
    #[error("could not list containers at {address:?}")]
    Failed {
        address: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Unreachable {
    /// Its causes too: the last is the one that helps.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let told = error.to_string();
            if !text.ends_with(&told) {
                // Writing to a String cannot fail.
                let _ = write!(text, ": {}", escaped(&told));
            }
            cause = error.source();
        }
        text
    }
}

/// A runtime that the user named cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Not in [`ALL`].
    #[error("ctrace knows no runtime {runtime:?}: --runtime-socket takes RUNTIME=PATH with one of {known}")]
    Unknown {
        /// As the user wrote it.
        runtime: String,
        /// Those that there are.
        known: String,
    },
    /// It does not answer.
    #[error("asked {runtime} at {address:?}, as --runtime-socket says: {why}; {advice}")]
    Unreachable {
        /// Its name.
        runtime: &'static str,
        /// Where.
        address: String,
        /// Why not, escaped.
        why: String,
        /// What to do.
        advice: &'static str,
    },
}

/// The containers of all runtimes that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of [`ALL`], then as the runtime has them; each once, whoever tells of it.
    pub containers: Vec<ContainerInfo>,
    /// Names of the runtimes that answered.
    pub answered: Vec<&'static str>,
    /// Why the others did not, for a message: one text for each runtime.
    pub unanswered: Vec<Arc<str>>,
    /// When they were asked: what came after need not be in the answers. None if that cannot be told.
    pub asked: Option<Instant>,
}

/// A place where a runtime may listen, and what came of asking there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// The runtime that is expected there.
    pub runtime: &'static str,
    /// Its address, a URL.
    pub address: String,
    /// What came of it.
    pub state: RuntimeState,
}

/// What came of asking a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// Nobody listens.
    Absent,
    /// It answered.
    Answered {
        /// The runtime that is there.
        runtime: &'static str,
        /// Its version, in its own words.
        version: String,
        /// How many containers it has, also those that do not run.
        containers: usize,
    },
    /// It accepts and does not answer in time.
    Silent,
    /// It cannot be asked: why, escaped.
    Failed(String),
}

/// Asks every runtime, all at once, which takes five seconds at most. One that is absent is passed over in
/// silence, one in trouble with a warning. Those in `sockets` are asked there instead of at the places that
/// are known; that one of them does not answer is an error.
pub async fn list(sockets: &[RuntimeSocket]) -> Result<Listing, RuntimeError> {
    let asked = Instant::now();
    let answers = ask_all(sockets).await?;
    for (endpoint, answer) in &answers {
        if let (Owner::Named, Err(error)) = (&endpoint.owner, answer) {
            return Err(unreachable(endpoint, error));
        }
    }
    Ok(gather(answers, Some(asked)))
}

fn gather(answers: Answered, asked: Option<Instant>) -> Listing {
    let mut answered: Vec<(Owner, RuntimeReply)> = Vec::new();
    let mut unanswered: Vec<(&'static str, Vec<Unreachable>)> = Vec::new();
    for (endpoint, answer) in answers {
        let name = endpoint.runtime.name;
        match answer {
            Ok(told) => answered.push((endpoint.owner.clone(), told)),
            Err(error) => {
                report(name, &error);
                match unanswered.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, errors)) => errors.push(error),
                    None => unanswered.push((name, vec![error])),
                }
            }
        }
    }
    let mut names: Vec<&'static str> = Vec::new();
    for (_, told) in &answered {
        if !names.contains(&told.runtime) {
            names.push(told.runtime);
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
        asked,
    }
}

/// Every place where a runtime is looked for, and what came of asking there: nothing is an error.
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
    Ok(ask_all(sockets).await?.into_iter().map(state).collect())
}

/// The first process of a container, as its runtime says.
pub async fn init(container: &ContainerInfo) -> Option<u32> {
    match container.pid {
        Some(pid) => Some(pid),
        None => describe(container).await?.init,
    }
}

/// What its runtimes say of one container; none when none of them answers.
pub async fn describe(container: &ContainerInfo) -> Option<Details> {
    let mut found: Option<Details> = None;
    for source in &container.sources {
        let runtime = source.endpoint.runtime;
        match (runtime.describe)(source.clone(), container.id.clone()).await {
            Ok(details) => match &mut found {
                Some(known) => known.add(details),
                None => found = Some(details),
            },
            Err(error) => report(runtime.name, &error),
        }
    }
    found
}

type Answered = Vec<(Arc<RuntimeEndpoint>, Result<RuntimeReply, Unreachable>)>;

/// Asks at all addresses.
async fn ask_all(sockets: &[RuntimeSocket]) -> Result<Answered, RuntimeError> {
    let mut asked = JoinSet::new();
    for (index, endpoint) in endpoint::endpoints(ALL, sockets)?.into_iter().enumerate() {
        let endpoint = Arc::new(endpoint);
        asked.spawn(async move {
            let answer = (endpoint.runtime.ask)(Arc::clone(&endpoint), DetailLevel::All).await;
            (index, (endpoint, answer))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        // It fails only if a task panicked, which is a bug that has been reported by then.
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
            Unreachable::Absent(_) => "start it, or give the path of its socket",
            Unreachable::Silent(_) => "look whether it hangs",
            Unreachable::Unserved(_) | Unreachable::Failed { .. } => {
                "look whether it is this runtime, and whether you may talk to it"
            }
        },
    }
}

/// A warning once in a run: the same question is asked again while a trace runs.
fn report(name: &'static str, error: &Unreachable) {
    static WARNED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if let Unreachable::Absent(_) | Unreachable::Unserved(_) = error {
        tracing::debug!("{name}: {error}");
        return;
    }
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        tracing::warn!("{name}: {}; its containers can be found by id only", error.chain());
    }
}

#[cfg(test)]
mod tests;
