//! The containers of a target: the decision about each, and the resulting changes of the kernel's filter.
//!
//! Owns the decisions, bounded, and the changes that a new decision causes. [`crate::scope::matcher`] makes
//! the decisions. Single processes are not checked here.

use std::collections::BTreeSet;

use super::matcher::{ContainerDecision, Granularity};
use super::tracker::cgroup;
use super::{ScopeChange, Target};
use crate::container::index::CgroupPlace;
use crate::container::unclaimed::UnclaimedCgroups;
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::{CGROUP_LEVELS, is_below};
use crate::proc::process::ProcessEntry;

/// Limit of the tracked containers. The map of the kernel's filter is smaller.
const MEMBERS: usize = 1 << 14;
/// A container that is, or may be, selected or excluded.
#[derive(Clone, Debug)]
pub(crate) struct TrackedContainer {
    decision: ContainerDecision,
    /// Its own cgroups, below which its processes may have created others. Empty without cgroup v2.
    pub(super) cgroups: Vec<Cgroup>,
}

impl TrackedContainer {
    pub(super) fn is_in(&self) -> bool {
        self.decision == ContainerDecision::Include
    }

    /// Whether it is kept out only until the facts are complete.
    pub(super) fn is_held(&self) -> bool {
        self.decision == ContainerDecision::ExcludeUntilDecided
    }

    pub(super) fn is_kept_out(&self) -> bool {
        matches!(self.decision, ContainerDecision::Exclude | ContainerDecision::ExcludeUntilDecided)
    }

    pub(super) fn has_decision_of(&self, other: &Self) -> bool {
        self.decision == other.decision
    }

    pub(super) fn is_undecided(&self) -> bool {
        matches!(
            self.decision,
            ContainerDecision::IncludeWhenConfirmed | ContainerDecision::ExcludeUntilDecided
        )
    }
}

impl Target {
    /// Decides about the containers that a process is in, except for those in `seen`, and adds them to
    /// `seen`.
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

    /// Decides about a container, with the facts that there are.
    pub(super) fn decide(&mut self, id: &str, cgroup: Option<Cgroup>) {
        // An excluded container stays out as long as it runs, even if it is renamed.
        let is_out = self.members.get(id).is_some_and(|member| member.decision == ContainerDecision::Exclude);
        let decision = if is_out {
            ContainerDecision::Exclude
        } else {
            self.rules.decision(id, self.containers.fact(id).as_ref())
        };
        if decision == ContainerDecision::Unrelated {
            self.has_new_decisions |= self.members.remove(id).is_some();
            return;
        }
        if !self.members.contains_key(id) && self.members.len() >= MEMBERS {
            tracing::warn!("more than {MEMBERS} containers: {id:?} is ignored");
            return;
        }
        // This makes the index ask for its name.
        self.containers.get(id);
        if !self.members.contains_key(id) {
            self.has_new_decisions = true;
            self.members.insert(id.to_owned(), TrackedContainer { decision, cgroups: Vec::new() });
        }
        let Some(member) = self.members.get_mut(id) else { return };
        self.has_new_decisions |= member.decision != decision;
        member.decision = decision;
        if let Some(cgroup) = cgroup.filter(|cgroup| !member.cgroups.contains(cgroup)) {
            self.has_new_decisions = true;
            // A container that was started again has another cgroup with the same path.
            member.cgroups.retain(|other| other.path != cgroup.path);
            member.cgroups.push(cgroup);
        }
    }

    /// Updates the scope's cgroups according to the decisions. Exclusions come first, so that a container
    /// inside of a container is never in scope for a moment. A cgroup that is no longer excluded is removed
    /// before it is added.
    ///
    /// This is called for every program that is executed on the machine, and there may be thousands of
    /// containers. So it does nothing unless a decision is new, or something is excluded: then cgroups that
    /// belong to nobody yet also count, and what else is in scope.
    pub(super) fn scope_delta(&mut self) -> Vec<ScopeChange> {
        if !std::mem::take(&mut self.has_new_decisions) && !self.rules.has_exclusions() {
            return Vec::new();
        }
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
            let created = |all: &mut UnclaimedCgroups| -> Vec<Cgroup> {
                all.iter().map(|(id, created)| cgroup(&created.path, *id)).collect()
            };
            excluded.extend(self.containers.unclaimed(created).iter().filter(is_reached).cloned());
        }
        let excluded: BTreeSet<Cgroup> =
            excluded.into_iter().filter_map(|one| self.within_reach(one)).collect();
        let by_cgroup = self.rules.granularity == Granularity::Whole && !self.rules.everything;
        let cgroups: BTreeSet<Cgroup> = of(TrackedContainer::is_in).filter(|_| by_cgroup).cloned().collect();
        let mut changes = Vec::new();
        let added = |now: &BTreeSet<Cgroup>, before: &[Cgroup]| -> Vec<Cgroup> {
            let before: BTreeSet<&Cgroup> = before.iter().collect();
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
        self.covered = cgroups.iter().map(|cgroup| cgroup.path.clone().into_bytes()).collect();
        self.scope.cgroups = cgroups.into_iter().collect();
        changes
    }

    /// A cgroup that the kernel's filter can exclude. One that is too deep is excluded together with the
    /// ancestor at the deepest level.
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

    /// Drops containers that have ended although their end was not reported.
    pub(super) fn drop_vanished(&mut self, seen: &BTreeSet<CgroupPlace>) {
        self.has_new_decisions = true;
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
