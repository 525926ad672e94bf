//! Container runtimes: what containers are called, which are there.
//!
//! Owns the questions that are put to them, and the time that they get to answer. A runtime only gives
//! names: everything works by ids without one. It never starts, stops or changes a container.

mod docker;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::event;

/// What a runtime gets for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Every runtime that is asked: a new one is a file and a line here.
pub const ALL: &[Runtime] = &[docker::RUNTIME];

/// A way to ask one kind of runtime.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    /// As events name it.
    pub name: &'static str,
    /// All of its containers, also those that do not run.
    list: fn() -> Answer<Vec<Listed>>,
    /// The first process of a container, if it runs.
    init: fn(String) -> Answer<Option<u32>>,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Unreachable>> + Send>>;

/// A runtime did not answer.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    /// Nobody listens there: it is simply not in use.
    #[error("nothing listens at {0:?}")]
    Absent(String),
    /// Somebody listens and accepts, and says nothing.
    #[error("no answer from {0:?} in {TIMEOUT:?}")]
    Silent(String),
    /// An answer that is none.
    #[error("could not list containers at {address:?}")]
    Failed {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A container as its runtime describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Full id.
    pub id: String,
    /// Its names, the usual one first.
    pub names: Vec<String>,
    /// Image that it was made from, as the runtime shows it.
    pub image: Option<String>,
    /// Whether it has processes.
    pub is_running: bool,
    /// `exited`, `created`, …, in the runtime's words.
    pub state: String,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The pod that it belongs to.
    pub pod: Option<Arc<event::Pod>>,
    /// Name of its runtime.
    pub runtime: &'static str,
}

impl Listed {
    pub(super) fn to_container(&self) -> event::Container {
        event::Container {
            id: self.id.clone(),
            name: self.names.first().cloned(),
            runtime: Some(event::Runtime { name: self.runtime.to_owned() }),
            image: self.image.clone().map(|name| event::Image { name }),
            labels: Arc::clone(&self.labels),
            pod: self.pod.clone(),
        }
    }
}

/// The pod that a container's labels tell of: kubelet has every CRI runtime set these.
fn pod_of(labels: &BTreeMap<String, String>) -> Option<Arc<event::Pod>> {
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty()).cloned();
    Some(Arc::new(event::Pod {
        name: label("io.kubernetes.pod.name")?,
        namespace: label("io.kubernetes.pod.namespace"),
        uid: label("io.kubernetes.pod.uid"),
    }))
}

/// The containers of all runtimes that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of [`ALL`], then as the runtime has them.
    pub containers: Vec<Listed>,
    /// Names of the runtimes that answered.
    pub answered: Vec<&'static str>,
    /// Why the others did not, for a message.
    pub unanswered: Vec<Arc<str>>,
}

/// Asks every runtime. One that is absent is passed over in silence, one in trouble with a warning.
pub async fn list() -> Listing {
    let mut listing = Listing::default();
    for runtime in ALL {
        match (runtime.list)().await {
            Ok(containers) => {
                listing.answered.push(runtime.name);
                listing.containers.extend(containers);
            }
            Err(error) => {
                report(runtime.name, &error);
                listing.unanswered.push(format!("{}: {error}", runtime.name).into());
            }
        }
    }
    listing
}

/// The first process of a container, as its runtime says.
pub async fn init(container: &Listed) -> Option<u32> {
    let runtime = ALL.iter().find(|runtime| runtime.name == container.runtime)?;
    match (runtime.init)(container.id.clone()).await {
        Ok(pid) => pid,
        Err(error) => {
            report(runtime.name, &error);
            None
        }
    }
}

/// A warning once in a run: the same question is asked again while a trace runs.
fn report(name: &'static str, error: &Unreachable) {
    static WARNED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if let Unreachable::Absent(_) = error {
        tracing::debug!("{name}: {error}");
        return;
    }
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause:?}")).unwrap_or_default();
        tracing::warn!("{name}: {error}{cause}; its containers can be found by id only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let names: BTreeSet<_> = ALL.iter().map(|runtime| runtime.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase())));
    }
}
