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
    let mut index_of: HashMap<ContainerKey, usize> = HashMap::new();
    // The runtimes of single users come last, and only for containers that no other runtime reports.
    let (system, users): (Vec<_>, Vec<_>) =
        answered.into_iter().partition(|(owner, _)| !matches!(owner, Owner::User(_)));
    for (owner, reply) in system.into_iter().chain(users) {
        for container in reply.containers {
            let mark = container.mark();
            match index_of.get(&mark).copied().and_then(|index| all.get_mut(index)) {
                None => {
                    index_of.insert(mark, all.len());
                    all.push(container);
                }
                Some(same) if !matches!(owner, Owner::User(_)) => add(same, container),
                Some(_) => {}
            }
        }
    }
    all
}

/// Adds to `merged` what only `other` has.
fn add(merged: &mut ContainerInfo, other: ContainerInfo) {
    // containerd uses the id or a label as the name; another runtime has the name that people use.
    if merged.names.is_empty() {
        merged.names = other.names;
    }
    // The kubelet asks for an image by its digest; containerd has its name.
    if merged.image.as_deref().is_none_or(images::is_id) && other.image.is_some() {
        merged.image = other.image;
    }
    merged.image_names.merge(other.image_names);
    merged.is_running |= other.is_running;
    if merged.state.is_empty() {
        merged.state = other.state;
    }
    if other.labels.keys().any(|key| !merged.labels.contains_key(key)) {
        let mut labels: BTreeMap<String, String> = (*other.labels).clone();
        labels.extend(merged.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        merged.labels = Arc::new(labels);
    }
    // containerd itself has only what a container's labels say of its pod; its CRI plugin has the pod's own.
    let is_better = other.pod.as_ref().is_some_and(|pod| pod.labels.is_some());
    if merged.pod.as_ref().is_none_or(|pod| pod.labels.is_none() && is_better) {
        merged.pod = other.pod;
    }
    merged.gaps.labels |= other.gaps.labels;
    merged.gaps.pod &= merged.pod.is_none();
    merged.pid = merged.pid.or(other.pid);
    merged.sources.extend(other.sources);
}

/// The cgroup of a container whose id another container may have too. None for an id that is unique.
pub(super) fn own_cgroup(id: &str, path: impl FnOnce() -> String) -> Option<Arc<str>> {
    (!is_id(id)).then(|| path().into())
}
