//! Keeps the scope up to date while containers and processes appear, end and execute programs.
//!
//! Owns the one decision about each container and process, at the start and later. It reads /proc and
//! directories of cgroups. It does not ask the runtimes, but says when they should be asked, and takes their
//! answers.
//!
//! A container with incomplete facts enters the scope only when they are complete. One that may have to be
//! excluded is kept out until then. So nothing is ever in scope that does not match.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decisions::TrackedContainer;
use super::matcher::{Granularity, ProcessAttrs};
use super::{Process, ScopeChange, Target};
use crate::container::index::CgroupPlace;
use crate::container::runtime::{ContainerQuery, Listing};
use crate::container::unclaimed::NewCgroup;
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::ProcCgroups;
use crate::proc::process::{Proc, ProcessEntry, descendants};

/// Limit of the ancestors that are checked.
const ANCESTORS: usize = 64;
/// How often the runtimes are asked again because of exclusions: a container may be renamed, or a tag be
/// moved to its image, and the kernel reports neither.
const CHECKED: Duration = Duration::from_secs(10);
/// Ended processes are dropped from the list when it has grown to twice its length and by this number.
const ENDED: usize = 256;

/// The effect of an event on the scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeDelta {
    /// The changes for the kernel's filter, in this order.
    pub scope: Vec<ScopeChange>,
    /// Processes that have come into scope, and must be inspected.
    pub processes: Vec<Process>,
}

impl Target {
    /// Handles the creation of a cgroup in the v2 hierarchy. If it is a container's, nothing runs in it yet.
    pub fn cgroup_created(&mut self, path: &[u8], id: u64) -> ScopeDelta {
        let place = self.containers.enclosing(&ProcCgroups::of_path(path)).pop();
        let Some(CgroupPlace { key: container, root }) = place else {
            let created = NewCgroup { path: path.to_vec(), at: Instant::now() };
            self.containers.unclaimed(|all| all.insert(id, created));
            return ScopeDelta { scope: self.scope_delta(), processes: Vec::new() };
        };
        if self.rules.matches_by_container() {
            let cgroup = match root.as_deref() {
                Some(root) if root == path => Some(cgroup(path, id)),
                // It is below a container's cgroup, which was decided about already unless its event was
                // lost.
                Some(root) if !self.has_cgroup(&container, root) => self.containers.cgroup(root),
                _ => None,
            };
            self.decide(&container, cgroup);
        }
        if self.rules.everything || self.members.contains_key(&container) {
            self.containers.seen_in(&container, id);
        }
        ScopeDelta { scope: self.scope_delta(), processes: Vec::new() }
    }

    /// Handles the removal of a cgroup in the v2 hierarchy.
    pub fn cgroup_removed(&mut self, id: u64) -> ScopeDelta {
        self.containers.cgroup_removed(id);
        self.has_new_decisions = true;
        self.members.retain(|_, member| {
            let before = member.cgroups.len();
            member.cgroups.retain(|cgroup| cgroup.id != id);
            member.cgroups.len() == before || !member.cgroups.is_empty()
        });
        ScopeDelta { scope: self.scope_delta(), processes: Vec::new() }
    }

    /// Handles the execution of another program by a process, in scope or not.
    pub fn executed(&mut self, pid: u32) -> ScopeDelta {
        let mut change = ScopeDelta::default();
        let proc = self.containers.proc().clone();
        let Some(entry) = proc.entry(pid).filter(|_| pid != proc.own()) else { return change };
        self.decide_around(&entry, &mut BTreeSet::new());
        change.scope = self.scope_delta();
        if self.is_followed(&entry) {
            self.followed.insert(pid, entry.process.start_time);
        }
        let was_in = self.remove(pid) == Some(entry.process.start_time);
        match (self.is_in_scope(&entry), self.rules.granularity) {
            (true, Granularity::Whole) if was_in => {
                let process = self.process(entry);
                self.push(process);
            }
            // It is new to the scope, or the kernel's filter removed it when it executed the program.
            (true, _) => self.enter(entry, &mut change),
            // It may have been added for the program that it executed before, just after it executed this
            // one.
            (false, Granularity::Process) if was_in => change.scope.push(ScopeChange::LeaveProcess(pid)),
            (false, _) => {}
        }
        self.drop_ended();
        change
    }

    /// Whether a process that the kernel reported is in scope, so that the files that it maps must be
    /// inspected.
    pub fn contains(&self, pid: u32) -> bool {
        let proc = self.containers.proc();
        if pid == proc.own() {
            return false;
        }
        if (self.scope.all && !self.rules.matches_by_container()) || self.start_times.contains_key(&pid) {
            return true;
        }
        proc.entry(pid).is_some_and(|entry| self.has_in_scope(&entry, self.descent(&entry)))
    }

    /// What the runtimes should be asked for now, for [`Self::on_runtime_listing`]: the facts or the name of
    /// a container are missing, or exclusions have to be checked again. If an answer does not bring the
    /// facts, the next question is delayed.
    pub fn missing_facts(&self) -> Option<ContainerQuery> {
        let is_due = self.listed_at.is_none_or(|at| at.elapsed() >= CHECKED);
        if self.containers.unclaimed(|all| !all.is_empty()) || (self.rules.has_exclusions() && is_due) {
            return Some(ContainerQuery::Facts);
        }
        self.containers.unnamed()
    }

    /// Takes the answers of the runtimes. If a runtime did not answer, nothing changes for its containers.
    pub fn on_runtime_listing(&mut self, listing: &Listing) -> ScopeDelta {
        let mut news = self.containers.update(listing);
        if listing.partial.is_none() {
            self.listed_at = Some(Instant::now());
        }
        if !self.rules.matches_by_container() {
            news.clear();
        }
        // Processes of a container without a cgroup here can only be found among all of them.
        let has_place = |id: &String| self.members.get(id).is_some_and(|member| !member.cgroups.is_empty());
        let have_places = news.iter().all(has_place);
        let (mut change, is_released) = match listing.partial {
            None => self.settle_unclaimed(listing.queried_at),
            Some(_) => (ScopeDelta::default(), false),
        };
        let news: BTreeSet<String> = news.into_iter().collect();
        let is_open = |id: &String, member: &TrackedContainer| news.contains(id) || member.is_undecided();
        let open = self.members.iter().filter(|(id, member)| is_open(id, member));
        let open: Vec<(String, TrackedContainer)> =
            open.map(|(id, member)| (id.clone(), member.clone())).collect();
        let mut changed = Vec::new();
        for (id, before) in open {
            self.decide(&id, None);
            let after = self.members.get(&id);
            if !after.is_some_and(|after| after.has_decision_of(&before)) {
                changed.push((before.clone(), after.cloned()));
            }
        }
        let scanned = match self.now_inside(&changed).filter(|_| have_places && !is_released) {
            Some(entries) => self.admit(entries),
            None => self.scan(self.containers.entries()),
        };
        change.scope.extend(scanned.scope);
        change.processes.extend(scanned.processes);
        change
    }

    /// The processes of containers about which the decision has changed, with the decisions before and after.
    /// None if all processes have to be scanned: some may be out of scope now, or not all can be found by
    /// their cgroups.
    fn now_inside(
        &self,
        changed: &[(TrackedContainer, Option<TrackedContainer>)],
    ) -> Option<Vec<ProcessEntry>> {
        let proc = self.containers.proc();
        let mut entries = BTreeMap::new();
        for (before, after) in changed {
            let is_in = after.as_ref().is_some_and(TrackedContainer::is_in);
            let is_kept_out = after.as_ref().is_some_and(TrackedContainer::is_kept_out);
            if before.cgroups.is_empty()
                || (before.is_in() && !is_in)
                || (!before.is_kept_out() && is_kept_out)
            {
                return None;
            }
            for cgroup in &before.cgroups {
                for pid in self.containers.hierarchy()?.processes(cgroup)? {
                    entries.extend(proc.entry(pid).filter(|_| pid != proc.own()).map(|entry| (pid, entry)));
                }
            }
        }
        Some(entries.into_values().collect())
    }

    /// Lets those of these processes into scope that are to be in it, and leaves the others as they are.
    fn admit(&mut self, entries: Vec<ProcessEntry>) -> ScopeDelta {
        let mut seen = BTreeSet::new();
        for entry in &entries {
            self.decide_around(entry, &mut seen);
        }
        let mut change = ScopeDelta { scope: self.scope_delta(), processes: Vec::new() };
        for entry in entries {
            let is_new = self.start_times.get(&entry.process.pid) != Some(&entry.process.start_time);
            if is_new && self.is_in_scope(&entry) {
                self.remove(entry.process.pid);
                self.enter(entry, &mut change);
            }
        }
        change
    }

    /// Settles the cgroups that were created before the runtimes were asked: each belongs to a container that
    /// they report now, or to none. Also returns whether one was kept out that belongs to none.
    fn settle_unclaimed(&mut self, queried_at: Option<Instant>) -> (ScopeDelta, bool) {
        let (mut change, mut is_released) = (ScopeDelta::default(), false);
        let all = self
            .containers
            .unclaimed(|all| all.iter().map(|(id, created)| (*id, created.clone())).collect::<Vec<_>>());
        for (id, NewCgroup { path, at }) in all {
            let is_container = !self.containers.enclosing(&ProcCgroups::of_path(&path)).is_empty();
            if !is_container && queried_at.is_none_or(|queried_at| at > queried_at) {
                continue;
            }
            self.containers.unclaimed(|all| all.remove(id));
            if is_container {
                change.scope.extend(self.cgroup_created(&path, id).scope);
            }
            is_released |= !is_container && self.rules.has_exclusions();
        }
        (change, is_released)
    }

    /// Scans all processes, to make up for what was missed: before events were reported, or because events
    /// were lost.
    pub fn rescan(&mut self) -> ScopeDelta {
        self.scan(self.containers.entries())
    }

    /// Whether processes in scope have to be checked again, with [`Self::recheck`].
    pub fn rechecks_processes(&self) -> bool {
        self.rules.excludes_processes()
    }

    /// Checks processes in scope again, and removes those that are now excluded although they did not execute
    /// anything. A server may fork its workers as root, and these change their user afterwards.
    pub fn recheck(&mut self, pids: &[u32]) -> ScopeDelta {
        let proc = self.containers.proc().clone();
        let is_out = |pid: &u32| {
            let entry = proc.entry(*pid);
            entry.is_some_and(|entry| self.rules.excludes_process(&Seen { proc: &proc, entry: &entry }))
        };
        let out: Vec<u32> = pids.iter().copied().filter(is_out).collect();
        self.start_times.retain(|pid, _| !out.contains(pid));
        self.processes.retain(|process| !out.contains(&process.pid));
        ScopeDelta { scope: out.into_iter().map(ScopeChange::LeaveProcess).collect(), processes: Vec::new() }
    }

    /// Whether something may come into scope later although nothing is now. If so, a trace with nothing to
    /// attach to should wait for it.
    pub fn may_match_later(&self) -> bool {
        self.rules.can_match_later()
    }

    /// Whether anything of the target still runs or can still start. For a selection by properties that is
    /// always so.
    pub fn any_alive(&self) -> bool {
        let proc = self.containers.proc();
        if self.rules.is_open_ended()
            || self.processes.iter().any(|process| proc.is_alive(process.pid, process.start_time))
        {
            return true;
        }
        let is_populated = |cgroup: &Cgroup| {
            self.containers.hierarchy().and_then(|hierarchy| hierarchy.is_populated(cgroup)) == Some(true)
        };
        if self
            .members
            .values()
            .filter(|member| member.is_in())
            .flat_map(|one| &one.cgroups)
            .any(is_populated)
        {
            return true;
        }
        let entries = self.containers.entries();
        let followed = descendants(self.living_followed(&entries), &entries);
        let descent = |pid: &u32| if followed.contains(pid) { Descent::Selected } else { Descent::Other };
        entries.iter().any(|entry| self.is_selected(entry, descent(&entry.process.pid)))
    }

    /// Scans the processes, of which `entries` has all, and makes the list of processes those in scope.
    pub(super) fn scan(&mut self, entries: Vec<ProcessEntry>) -> ScopeDelta {
        let mut seen = BTreeSet::new();
        for entry in &entries {
            self.decide_around(entry, &mut seen);
        }
        self.drop_vanished(&seen);
        let followed = descendants(self.living_followed(&entries), &entries);
        let followed = entries.iter().filter(|entry| followed.contains(&entry.process.pid));
        self.followed = followed.map(|entry| (entry.process.pid, entry.process.start_time)).collect();
        let mut change = ScopeDelta { scope: self.scope_delta(), processes: Vec::new() };
        let before = std::mem::take(&mut self.start_times);
        self.processes.clear();
        for entry in entries {
            let pid = entry.process.pid;
            let was_in = before.get(&pid) == Some(&entry.process.start_time);
            match (self.is_in_scope(&entry), self.rules.granularity) {
                (true, _) if was_in => {
                    let process = self.process(entry);
                    self.push(process);
                }
                (true, _) => self.enter(entry, &mut change),
                (false, Granularity::Process) if was_in => change.scope.push(ScopeChange::LeaveProcess(pid)),
                (false, _) => {}
            }
        }
        change
    }

    fn enter(&mut self, entry: ProcessEntry, change: &mut ScopeDelta) {
        let pid = entry.process.pid;
        let passes_already = self.rules.granularity == Granularity::Whole && self.is_covered(&entry);
        if !passes_already {
            change.scope.push(ScopeChange::EnterProcess(pid));
            if self.rules.granularity == Granularity::Whole {
                self.followed.insert(pid, entry.process.start_time);
            }
        }
        let process = self.process(entry);
        self.push(process.clone());
        change.processes.push(process);
    }

    fn push(&mut self, process: Process) {
        self.start_times.insert(process.pid, process.start_time);
        self.processes.push(process);
    }

    /// Removes a process from the list, and returns its start time if it was there.
    fn remove(&mut self, pid: u32) -> Option<u64> {
        let start_time = self.start_times.remove(&pid)?;
        self.processes.retain(|process| process.pid != pid);
        Some(start_time)
    }

    fn process(&self, entry: ProcessEntry) -> Process {
        Process { container: self.containers.of_cgroups(&entry.cgroups), ..entry.process.into() }
    }

    /// Whether a process is selected, by itself or by its container, and not excluded.
    fn is_selected(&self, entry: &ProcessEntry, descent: Descent) -> bool {
        if self.is_unclaimed(entry) {
            return false;
        }
        let around = self.containers.enclosing(&entry.cgroups);
        let around: Vec<&TrackedContainer> =
            around.iter().filter_map(|place| self.members.get(&place.key)).collect();
        if around.iter().any(|member| member.is_kept_out()) {
            return false;
        }
        let in_namespace = || entry.namespace.is_some_and(|id| self.namespaces.contains(&id));
        self.rules.everything
            || descent == Descent::Selected
            || around.iter().any(|member| member.is_in())
            || in_namespace()
            || (around.is_empty() && self.has_entered(entry))
    }

    /// Whether it has entered the namespaces of a selected container, although its cgroup is another.
    fn has_entered(&self, entry: &ProcessEntry) -> bool {
        let selected = self.members.iter().filter(|(_, member)| member.is_in());
        let mut selected = selected.map(|(key, member)| (key.as_str(), member.cgroups.as_slice())).peekable();
        if selected.peek().is_none() || !self.containers.enclosing(&entry.cgroups).is_empty() {
            return false;
        }
        let entered = self.containers.entered(entry.process.pid, selected);
        entered.and_then(|key| self.members.get(&key)).is_some_and(TrackedContainer::is_in)
    }

    /// Whether it may be in an excluded container, because its cgroup is new.
    fn is_unclaimed(&self, entry: &ProcessEntry) -> bool {
        self.rules.has_exclusions() && self.containers.unclaimed(|all| all.holds(&entry.cgroups))
    }

    fn is_in_scope(&self, entry: &ProcessEntry) -> bool {
        let is_followed = self.followed.get(&entry.process.pid) == Some(&entry.process.start_time);
        self.has_in_scope(entry, if is_followed { Descent::Selected } else { Descent::Other })
    }

    fn has_in_scope(&self, entry: &ProcessEntry, descent: Descent) -> bool {
        let attrs = Seen { proc: self.containers.proc(), entry };
        self.is_selected(entry, descent)
            && (self.rules.granularity == Granularity::Whole || self.rules.matches_process(&attrs))
    }

    /// Whether the kernel's filter lets it through already.
    fn is_covered(&self, entry: &ProcessEntry) -> bool {
        let path = entry.cgroups.unified.as_deref();
        let ancestors = path.into_iter().flat_map(|path| {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            ends.chain([path.len()]).filter_map(|end| path.get(..end))
        });
        self.scope.all
            || self.followed.get(&entry.process.pid) == Some(&entry.process.start_time)
            || entry.namespace.is_some_and(|id| self.scope.pid_namespaces.contains(&id))
            || ancestors.into_iter().any(|ancestor| self.covered.contains(ancestor))
    }

    fn descent(&self, entry: &ProcessEntry) -> Descent {
        if self.is_followed(entry) { Descent::Selected } else { Descent::Other }
    }

    /// Whether the process or one of its present ancestors is followed.
    fn is_followed(&self, entry: &ProcessEntry) -> bool {
        let proc = self.containers.proc();
        let mut next = (entry.process.pid, entry.process.start_time, entry.parent);
        for _ in 0..ANCESTORS {
            let (pid, start_time, parent) = next;
            if self.followed.is_empty() || self.followed.get(&pid) == Some(&start_time) {
                return !self.followed.is_empty();
            }
            match (proc.process(parent), proc.parent(parent)) {
                (Some(process), Some(above)) => next = (parent, process.start_time, above),
                _ => return false,
            }
        }
        false
    }

    /// The followed processes that still run; a reused pid does not count.
    fn living_followed(&self, entries: &[ProcessEntry]) -> Vec<u32> {
        let lives =
            |entry: &&ProcessEntry| self.followed.get(&entry.process.pid) == Some(&entry.process.start_time);
        entries.iter().filter(lives).map(|entry| entry.process.pid).collect()
    }

    /// Drops ended processes from time to time, so that the list does not grow without limit.
    fn drop_ended(&mut self) {
        if self.processes.len() < self.most + ENDED {
            return;
        }
        let proc = self.containers.proc();
        self.processes.retain(|process| proc.is_alive(process.pid, process.start_time));
        self.start_times = self.processes.iter().map(|process| (process.pid, process.start_time)).collect();
        self.followed
            .retain(|pid, start| proc.process(*pid).is_some_and(|process| process.start_time == *start));
        self.most = self.processes.len() * 2;
    }
}

/// Whether a process was selected by its pid, or descends from one that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descent {
    Selected,
    Other,
}

/// A process as [`crate::scope::matcher`] sees it.
struct Seen<'a> {
    proc: &'a Proc,
    entry: &'a ProcessEntry,
}

impl ProcessAttrs for Seen<'_> {
    fn comm(&self) -> &str {
        &self.entry.process.comm
    }

    fn executable(&self) -> Option<PathBuf> {
        self.proc.executable(self.entry.process.pid)
    }

    fn start_names(&self) -> Vec<PathBuf> {
        self.proc.start_names(self.entry.process.pid)
    }

    fn uid(&self) -> Option<u32> {
        self.proc.effective_uid(self.entry.process.pid)
    }
}

pub(super) fn cgroup(path: &[u8], id: u64) -> Cgroup {
    let components = path.split(|byte| *byte == b'/').filter(|component| !component.is_empty());
    Cgroup {
        id,
        level: u32::try_from(components.count()).unwrap_or(u32::MAX),
        path: String::from_utf8_lossy(path).into_owned(),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod excluded_tests;
