//! Merges the reports of several runtimes about one container: Docker and the containerd below it, containerd
//! and its CRI plugin.
//!
//! Owns the rule of which report takes precedence. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::endpoint::Owner;
use super::{ContainerInfo, RuntimeReply, images};
use crate::proc::cgroup::{ContainerKey, is_id};

/// The containers of all replies, each once, in the order in which they were first reported.
pub(super) fn merge(answered: Vec<(Owner, RuntimeReply)>) -> Vec<ContainerInfo> {
    let mut all: Vec<ContainerInfo> = Vec::new();
    let mut known: HashMap<ContainerKey, usize> = HashMap::new();
    // The runtimes of single users come last, and only for containers that no other runtime reports.
    let (system, users): (Vec<_>, Vec<_>) =
        answered.into_iter().partition(|(owner, _)| !matches!(owner, Owner::User(_)));
    for (owner, told) in system.into_iter().chain(users) {
        for container in told.containers {
            let mark = container.mark();
            match known.get(&mark).copied().and_then(|index| all.get_mut(index)) {
                None => {
                    known.insert(mark, all.len());
                    all.push(container);
                }
                Some(same) if !matches!(owner, Owner::User(_)) => add(same, container),
                Some(_) => {}
            }
        }
    }
    all
}

/// Adds to `known` what only `other` has.
fn add(known: &mut ContainerInfo, other: ContainerInfo) {
    // containerd uses the id or a label as the name; another runtime has the name that people use.
    if known.names.is_empty() {
        known.names = other.names;
    }
    // The kubelet asks for an image by its digest; containerd has its name.
    if known.image.as_deref().is_none_or(images::is_id) && other.image.is_some() {
        known.image = other.image;
    }
    known.image_names.merge(other.image_names);
    known.is_running |= other.is_running;
    if known.state.is_empty() {
        known.state = other.state;
    }
    if other.labels.keys().any(|key| !known.labels.contains_key(key)) {
        let mut labels: BTreeMap<String, String> = (*other.labels).clone();
        labels.extend(known.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        known.labels = Arc::new(labels);
    }
    known.pod = known.pod.take().or(other.pod);
    known.gaps.labels |= other.gaps.labels;
    known.gaps.pod &= known.pod.is_none();
    known.pid = known.pid.or(other.pid);
    known.sources.extend(other.sources);
}

/// The cgroup of a container whose id another container may have too. None for an id that is unique.
pub(super) fn own_cgroup(id: &str, path: impl FnOnce() -> String) -> Option<Arc<str>> {
    (!is_id(id)).then(|| path().into())
}
