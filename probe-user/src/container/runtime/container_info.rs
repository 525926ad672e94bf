//! A container as a runtime lists it, and how its processes are recognised.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::endpoint::RuntimeEndpoint;
use super::images::ImageNames;
use crate::event;
use crate::proc::cgroup::{ContainerKey, ProcCgroups};

/// A container as its runtime describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Full id: 64 hexadecimal digits with most runtimes, any name with containerd's own client.
    pub id: String,
    /// Its names, the usual one first.
    pub names: Vec<String>,
    /// Image that it was made from: the name that it was started with, or another that its runtime knows.
    pub image: Option<String>,
    /// Everything that the image is called.
    pub image_names: ImageNames,
    /// Whether it has processes.
    pub is_running: bool,
    /// `exited`, `created`, …, in the runtime's words.
    pub state: String,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The pod that it belongs to. What Podman says of its pods is there if Podman answers in its own
    /// protocol too.
    pub pod: Option<Arc<event::Pod>>,
    /// What of this there may be more of.
    pub gaps: Gaps,
    /// Name of its runtime.
    pub runtime: &'static str,
    /// Its first process, if the list has it and its runtime's pids are ours; [`super::init`] asks.
    pub pid: Option<u32>,
    /// The containers that its runtime runs in itself, as [`ProcCgroups::container_path`] has them.
    pub within: Option<Arc<str>>,
    /// Its cgroup's path from the root of the hierarchy, if its id alone does not tell it from others.
    pub cgroup: Option<Arc<str>>,
    /// Who told of it.
    pub sources: Vec<InfoSource>,
}

/// What is not all known of a container: its runtime could not be asked for it, or told more than is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// It has labels that are not kept.
    pub labels: bool,
    /// It may be in a pod.
    pub pod: bool,
}

impl Gaps {
    /// Of labels of which so many are kept.
    pub(super) fn of_labels(told: usize, kept: &BTreeMap<String, String>) -> Self {
        Self { labels: kept.len() < told, pod: false }
    }
}

/// Who told of a container: for more questions about it.
#[derive(Clone)]
pub struct InfoSource {
    pub(super) endpoint: Arc<RuntimeEndpoint>,
    /// containerd's namespace.
    pub(super) namespace: Option<Arc<str>>,
}

impl InfoSource {
    /// Name of the runtime.
    pub fn runtime(&self) -> &'static str {
        self.endpoint.runtime.name
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.endpoint.address.to_string()
    }

    /// containerd's namespace, of a container of containerd.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl PartialEq for InfoSource {
    fn eq(&self, other: &Self) -> bool {
        let of = |source: &Self| (source.runtime(), source.address(), source.namespace.clone());
        of(self) == of(other)
    }
}

impl Eq for InfoSource {}

impl fmt::Debug for InfoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.runtime(), self.address())?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " ({namespace:?})"))
    }
}

impl ContainerInfo {
    /// As events have it.
    pub fn to_container(&self) -> event::Container {
        event::Container {
            id: self.id.clone(),
            name: self.names.first().cloned(),
            runtime: Some(event::Runtime { name: self.runtime.to_owned() }),
            image: self.image.clone().map(|name| event::Image { name }),
            labels: Arc::clone(&self.labels),
            pod: self.pod.clone(),
        }
    }

    /// How its processes are recognised by their cgroups.
    pub fn mark(&self) -> ContainerKey {
        match &self.cgroup {
            Some(path) => ContainerKey::Path(path.as_bytes().to_vec()),
            None => {
                ContainerKey::Id { within: self.within.as_deref().map(str::to_owned), id: self.id.clone() }
            }
        }
    }

    /// Whether a process with these cgroups is in it, or in a container that is nested in it.
    pub fn holds(&self, cgroups: &ProcCgroups) -> bool {
        cgroups.has(&self.mark())
    }
}
