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
    /// The full id: 64 hexadecimal digits with most runtimes, any name with containerd's own client.
    pub id: String,
    /// Its names, the usual one first.
    pub names: Vec<String>,
    /// The image that it was created from: the name that was used to start it, or another name that its
    /// runtime has for it.
    pub image: Option<String>,
    /// All names of the image.
    pub image_names: ImageNames,
    /// Whether it has processes.
    pub is_running: bool,
    /// `exited`, `created`, …, as the runtime calls it.
    pub state: String,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The pod that it belongs to. A pod of Podman is set only if Podman's own protocol answers too.
    pub pod: Option<Arc<event::Pod>>,
    /// Which of these facts may be incomplete.
    pub gaps: Gaps,
    /// The name of its runtime.
    pub runtime: &'static str,
    /// Its first process, if the list contains it and the runtime's pids are in our namespace.
    /// [`super::init`] asks for it.
    pub pid: Option<u32>,
    /// The containers in which its runtime itself runs, in the form of [`ProcCgroups::container_path`].
    pub within: Option<Arc<str>>,
    /// The path of its cgroup from the root of the hierarchy, if its id alone is ambiguous.
    pub cgroup: Option<Arc<str>>,
    /// The endpoints that reported it.
    pub sources: Vec<InfoSource>,
}

/// What may be incomplete about a container: its runtime could not be asked, or reported more than is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Some of its labels were not kept.
    pub labels: bool,
    /// It may be in a pod that was not reported.
    pub pod: bool,
}

impl Gaps {
    /// The gaps of a container that has `reported` labels, of which these were kept.
    pub(super) fn of_labels(reported: usize, kept: &BTreeMap<String, String>) -> Self {
        Self { labels: kept.len() < reported, pod: false }
    }
}

/// An endpoint that reported a container, for further questions about it.
#[derive(Clone)]
pub struct InfoSource {
    pub(super) endpoint: Arc<RuntimeEndpoint>,
    /// The namespace of containerd.
    pub(super) namespace: Option<Arc<str>>,
}

impl InfoSource {
    /// The name of the runtime.
    pub fn runtime(&self) -> &'static str {
        self.endpoint.runtime.name
    }

    /// The address of its socket.
    pub fn address(&self) -> String {
        self.endpoint.address.to_string()
    }

    /// The namespace of containerd, if it is a container of containerd.
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
    /// The container as events contain it.
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
