//! One container, told of by several runtimes: Docker and the containerd below it, containerd and its CRI
//! plugin.
//!
//! Owns the rule of whom to believe. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::endpoint::Owner;
use super::{ContainerInfo, RuntimeReply, images};
use crate::proc::cgroup::{ContainerKey, is_id};

/// The containers of all, each once, in the order of who told first.
pub(super) fn merge(answered: Vec<(Owner, RuntimeReply)>) -> Vec<ContainerInfo> {
    let mut all: Vec<ContainerInfo> = Vec::new();
    let mut known: HashMap<ContainerKey, usize> = HashMap::new();
    // What a user of the machine says comes last, and only of containers that nobody else knows.
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

/// Adds what `other` knows and `known` does not.
fn add(known: &mut ContainerInfo, other: ContainerInfo) {
    // containerd's name for it is its id or a label; another runtime's is what people call it.
    if known.names.is_empty() {
        known.names = other.names;
    }
    // kubelet asks for an image by its digest; containerd knows what it is called.
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

/// The cgroup that tells a container from others whose runtime gives them the same id: none for an id that
/// nobody gives twice.
pub(super) fn own_cgroup(id: &str, path: impl FnOnce() -> String) -> Option<Arc<str>> {
    (!is_id(id)).then(|| path().into())
}
