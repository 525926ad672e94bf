//! The containers of a target: what is decided about each, and what the kernel's filter is told of it.
//!
//! Owns the decisions that were made, bounded, and the difference that a new one makes. It asks
//! [`crate::scope::matcher`] what to decide, and never looks at a process.

use std::collections::BTreeSet;

use super::matcher::{ContainerDecision, Granularity};
use super::tracker::cgroup;
use super::{ScopeChange, Target};
use crate::container::index::CgroupPlace;
use crate::container::unexplained::Unexplained;
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::{CGROUP_LEVELS, is_below};
use crate::proc::process::ProcessEntry;

/// Containers that matter or may, at the most. The map of the kernel's filter has less room.
const MEMBERS: usize = 1 << 14;
/// A container that matters, or may.
#[derive(Clone, Debug)]
pub(crate) struct TrackedContainer {
    standing: ContainerDecision,
    /// Its own cgroups, below which its processes may have made others. None where cgroup v2 is not in use.
    pub(super) cgroups: Vec<Cgroup>,
}

impl TrackedContainer {
    pub(super) fn is_in(&self) -> bool {
        self.standing == ContainerDecision::Include
    }

    /// Kept out only until more is known of it.
    pub(super) fn is_held(&self) -> bool {
        self.standing == ContainerDecision::ExcludeUntilKnown
    }

    pub(super) fn is_kept_out(&self) -> bool {
        matches!(self.standing, ContainerDecision::Exclude | ContainerDecision::ExcludeUntilKnown)
    }

    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.standing, ContainerDecision::IncludeWhenKnown | ContainerDecision::ExcludeUntilKnown)
    }
}

impl Target {
    /// Decides about the containers that a process is in. `seen` are those that were decided about.
    pub(super) fn decide_around(&mut self, entry: &ProcessEntry, seen: &mut BTreeSet<CgroupPlace>) {
        if !self.rules.matches_by_container() {
            return;
        }
        for place in self.containers.enclosing(&entry.cgroups) {
            if !seen.contains(&place) {
                let cgroup = place.root.as_deref().and_then(|root| self.containers.cgroup(root));
                self.decide(&place.key, cgroup);
                seen.insert(place);
            }
        }
    }

    /// Decides about a container, as far as the facts go.
    pub(super) fn decide(&mut self, id: &str, cgroup: Option<Cgroup>) {
        // What is excluded stays out as long as it runs, whatever it is called meanwhile.
        let is_out = self.members.get(id).is_some_and(|member| member.standing == ContainerDecision::Exclude);
        let standing = if is_out {
            ContainerDecision::Exclude
        } else {
            self.rules.standing(id, self.containers.fact(id).as_ref())
        };
        if standing == ContainerDecision::Unrelated {
            self.members.remove(id);
            return;
        }
        if !self.members.contains_key(id) && self.members.len() >= MEMBERS {
            tracing::warn!("more than {MEMBERS} containers: {id:?} is not looked at");
            return;
        }
        // From here on its name is of interest.
        self.containers.get(id);
        let member =
            self.members.entry(id.to_owned()).or_insert(TrackedContainer { standing, cgroups: Vec::new() });
        member.standing = standing;
        if let Some(cgroup) = cgroup.filter(|cgroup| !member.cgroups.contains(cgroup)) {
            // A container that was started again has another cgroup of the same name.
            member.cgroups.retain(|other| other.path != cgroup.path);
            member.cgroups.push(cgroup);
        }
    }

    /// Makes the scope's cgroups what the decisions say. What is kept out comes first: a container in a
    /// container must not be in scope for a moment. What was kept out is forgotten before it comes in.
    pub(super) fn scope_delta(&mut self) -> Vec<ScopeChange> {
        let of = |is_it: fn(&TrackedContainer) -> bool| {
            self.members.values().filter(move |member| is_it(member)).flat_map(|member| &member.cgroups)
        };
        let reaches_all = self.rules.everything || !self.followed.is_empty() || !self.namespaces.is_empty();
        let is_reached = |cgroup: &&Cgroup| {
            let path = cgroup.path.as_bytes();
            reaches_all || of(TrackedContainer::is_in).any(|outer| is_below(path, outer.path.as_bytes()))
        };
        let mut excluded: BTreeSet<Cgroup> =
            of(TrackedContainer::is_kept_out).filter(is_reached).cloned().collect();
        if self.rules.has_exclusions() {
            let made = |all: &mut Unexplained| -> Vec<Cgroup> {
                all.iter().map(|(id, made)| cgroup(&made.path, *id)).collect()
            };
            excluded.extend(self.containers.unexplained(made).iter().filter(is_reached).cloned());
        }
        let excluded: BTreeSet<Cgroup> =
            excluded.into_iter().filter_map(|one| self.within_reach(one)).collect();
        let is_told = self.rules.grain == Granularity::Whole && !self.rules.everything;
        let cgroups: BTreeSet<Cgroup> = of(TrackedContainer::is_in).filter(|_| is_told).cloned().collect();
        let mut changes = Vec::new();
        let added = |now: &BTreeSet<Cgroup>, before: &[Cgroup]| -> Vec<Cgroup> {
            now.iter().filter(|cgroup| !before.contains(cgroup)).cloned().collect()
        };
        let ids =
            |cgroups: &BTreeSet<Cgroup>| cgroups.iter().map(|cgroup| cgroup.id).collect::<BTreeSet<u64>>();
        let (out, inside) = (ids(&excluded), ids(&cgroups));
        changes.extend(added(&excluded, &self.scope.excluded).into_iter().map(ScopeChange::ExcludeCgroup));
        let was_out = self.scope.excluded.iter().map(|cgroup| cgroup.id).filter(|id| !out.contains(id));
        let was_in = self.scope.cgroups.iter().map(|cgroup| cgroup.id);
        let was_in = was_in.filter(|id| !inside.contains(id) && !out.contains(id));
        changes.extend(was_out.chain(was_in).map(ScopeChange::ForgetCgroup));
        changes.extend(added(&cgroups, &self.scope.cgroups).into_iter().map(ScopeChange::EnterCgroup));
        self.scope.excluded = excluded.into_iter().collect();
        self.scope.cgroups = cgroups.into_iter().collect();
        changes
    }

    /// A cgroup that the kernel's filter can keep out: one that is too far down is out with what it is in.
    fn within_reach(&self, cgroup: Cgroup) -> Option<Cgroup> {
        if cgroup.level < CGROUP_LEVELS {
            return Some(cgroup);
        }
        let most = usize::try_from(CGROUP_LEVELS - 1).unwrap_or(usize::MAX);
        let parts: Vec<&str> = cgroup.path.split('/').filter(|part| !part.is_empty()).take(most).collect();
        self.containers.cgroup(format!("/{}", parts.join("/")).as_bytes())
    }

    pub(super) fn has_cgroup(&self, id: &str, path: &[u8]) -> bool {
        let member = self.members.get(id);
        member.is_some_and(|member| member.cgroups.iter().any(|cgroup| cgroup.path.as_bytes() == path))
    }

    /// Forgets containers that have gone though nobody told of it.
    pub(super) fn drop_gone(&mut self, seen: &BTreeSet<CgroupPlace>) {
        let containers = &self.containers;
        let ids: BTreeSet<&str> = seen.iter().map(|place| place.key.as_str()).collect();
        self.members.retain(|id, member| {
            member.cgroups.retain(|cgroup| {
                containers.cgroup(cgroup.path.as_bytes()).is_some_and(|found| found.id == cgroup.id)
            });
            !member.cgroups.is_empty() || ids.contains(id.as_str())
        });
    }
}
