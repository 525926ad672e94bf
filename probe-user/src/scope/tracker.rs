//! What is in scope as the machine changes: containers and processes that come, go and execute programs.
//!
//! Owns the one decision about each container and process, at the start and later alike. It reads /proc and
//! directories of cgroups, and asks nobody: it says when the runtimes should be asked, and takes their
//! answer.
//!
//! A container whose properties are not known yet is in scope only when they are, and one that might have to
//! be kept out is kept out until then: nothing is ever in scope that does not match.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decisions::TrackedContainer;
use super::matcher::{Granularity, ProcessAttrs};
use super::{Process, ScopeChange, Target};
use crate::container::index::CgroupPlace;
use crate::container::runtime::Listing;
use crate::container::unexplained::Made;
use crate::proc::cgroup::Cgroup;
use crate::proc::cgroup::{ProcCgroups, is_below};
use crate::proc::process::{Proc, ProcessEntry, descendants};

/// How far up the tree of processes is looked.
const ANCESTORS: usize = 64;
/// How often the runtimes are asked again for what is excluded: a container may be renamed, and a tag be
/// moved to its image, without a word of the kernel's.
const CHECKED: Duration = Duration::from_secs(10);
/// Ended processes are dropped from the list when it has grown by this and to twice its length.
const ENDED: usize = 256;

/// What an event means for the scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeDelta {
    /// What the kernel must be told, in this order.
    pub scope: Vec<ScopeChange>,
    /// Processes that are in scope now and were not before: they are to be looked into.
    pub processes: Vec<Process>,
}

impl Target {
    /// A cgroup of the v2 hierarchy was made: it may be a container's, and then nothing runs in it yet.
    pub fn cgroup_made(&mut self, path: &[u8], id: u64) -> ScopeDelta {
        let place = self.containers.enclosing(&ProcCgroups::of_path(path)).pop();
        let Some(CgroupPlace { key: container, root }) = place else {
            let made = Made { path: path.to_vec(), at: Instant::now() };
            self.containers.unexplained(|all| all.insert(id, made));
            return ScopeDelta { scope: self.scope_delta(), processes: Vec::new() };
        };
        if self.rules.matches_by_container() {
            let cgroup = match root.as_deref() {
                Some(root) if root == path => Some(cgroup(path, id)),
                // Below a container's: that one is known, unless the event that told of it was lost.
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

    /// A cgroup of the v2 hierarchy was removed.
    pub fn cgroup_gone(&mut self, id: u64) -> ScopeDelta {
        self.containers.cgroup_gone(id);
        self.members.retain(|_, member| {
            let before = member.cgroups.len();
            member.cgroups.retain(|cgroup| cgroup.id != id);
            member.cgroups.len() == before || !member.cgroups.is_empty()
        });
        ScopeDelta { scope: self.scope_delta(), processes: Vec::new() }
    }

    /// A process, in scope or not, executes another program.
    pub fn executed(&mut self, pid: u32) -> ScopeDelta {
        let mut change = ScopeDelta::default();
        let proc = self.containers.proc().clone();
        let before = self.processes.iter().position(|process| process.pid == pid);
        let Some(entry) = proc.entry(pid).filter(|_| pid != proc.own()) else { return change };
        self.decide_around(&entry, &mut BTreeSet::new());
        change.scope = self.scope_delta();
        if self.is_followed(&entry) {
            self.followed.insert(pid, entry.process.start_time);
        }
        let before = before.map(|index| self.processes.remove(index));
        let was_in = before.is_some_and(|process| process.start_time == entry.process.start_time);
        match (self.is_in_scope(&entry), self.rules.grain) {
            (true, Granularity::Whole) if was_in => {
                let process = self.process(entry);
                self.processes.push(process);
            }
            // The kernel let go of it when it executed the program.
            (true, _) => self.enter(entry, &mut change),
            // It may have been let in for what it executed before, just after it executed this.
            (false, Granularity::Process) if was_in => change.scope.push(ScopeChange::LeaveProcess(pid)),
            (false, _) => {}
        }
        self.drop_ended();
        change
    }

    /// Whether this process, told of by the kernel, is in scope: what it maps is to be looked into.
    pub fn contains(&self, pid: u32) -> bool {
        let proc = self.containers.proc();
        if pid == proc.own() {
            return false;
        }
        if (self.scope.all && !self.rules.matches_by_container())
            || self.processes.iter().any(|process| process.pid == pid)
        {
            return true;
        }
        proc.entry(pid).is_some_and(|entry| self.has_in_scope(&entry, self.descent(&entry)))
    }

    /// Whether the runtimes should be asked, for [`Self::on_runtime_listing`]: something depends on the
    /// properties of a container, or its name is not known. After an answer without it, it takes a while
    /// until this is so again.
    pub fn needs_listing(&self) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= CHECKED);
        self.containers.has_unnamed()
            || self.containers.unexplained(|all| !all.is_empty())
            || (self.rules.has_exclusions() && is_due)
    }

    /// The runtimes were asked. A runtime that did not answer leaves everything as it was.
    pub fn on_runtime_listing(&mut self, listing: &Listing) -> ScopeDelta {
        let before = self.containers.version();
        self.containers.update(listing);
        self.told = Some(Instant::now());
        let has_news = self.containers.version() != before && self.rules.matches_by_container();
        let (mut change, is_explained) = self.explain(listing.asked);
        let open = self.members.iter().filter(|(_, member)| has_news || member.is_undecided());
        let open: Vec<String> = open.map(|(id, _)| id.clone()).collect();
        for id in &open {
            self.decide(id, None);
        }
        let is_still = |id: &String| self.members.get(id).is_some_and(TrackedContainer::is_undecided);
        if !has_news && !is_explained && open.iter().all(is_still) {
            return change;
        }
        let ScopeDelta { scope, processes } = self.look(self.containers.entries());
        change.scope.extend(scope);
        change.processes.extend(processes);
        change
    }

    /// Cgroups that were made before the runtimes were asked are containers that they know, or are none.
    /// Tells whether something was kept out that is none.
    fn explain(&mut self, asked: Option<Instant>) -> (ScopeDelta, bool) {
        let (mut change, mut is_let_in) = (ScopeDelta::default(), false);
        let all = self
            .containers
            .unexplained(|all| all.iter().map(|(id, made)| (*id, made.clone())).collect::<Vec<_>>());
        for (id, Made { path, at }) in all {
            let is_known = !self.containers.enclosing(&ProcCgroups::of_path(&path)).is_empty();
            if !is_known && asked.is_none_or(|asked| at > asked) {
                continue;
            }
            self.containers.unexplained(|all| all.remove(id));
            if is_known {
                change.scope.extend(self.cgroup_made(&path, id).scope);
            }
            is_let_in |= !is_known && self.rules.has_exclusions();
        }
        (change, is_let_in)
    }

    /// Looks at all processes. What was missed (before events were told, or because they were lost) is made
    /// up for.
    pub fn rescan(&mut self) -> ScopeDelta {
        self.look(self.containers.entries())
    }

    /// Whether processes that are in scope have to be looked at again, for [`Self::judge`].
    pub fn judges(&self) -> bool {
        self.rules.takes_processes_away()
    }

    /// Looks again at processes that are in scope: one that has become what is excluded without executing
    /// anything goes. A server may fork its workers as root, which then change their user.
    pub fn judge(&mut self, pids: &[u32]) -> ScopeDelta {
        let proc = self.containers.proc().clone();
        let is_out = |pid: &u32| {
            let entry = proc.entry(*pid);
            entry.is_some_and(|entry| self.rules.takes_process_away(&Seen { proc: &proc, entry: &entry }))
        };
        let out: Vec<u32> = pids.iter().copied().filter(is_out).collect();
        self.processes.retain(|process| !out.contains(&process.pid));
        ScopeDelta { scope: out.into_iter().map(ScopeChange::LeaveProcess).collect(), processes: Vec::new() }
    }

    /// Whether something that comes later may be in scope though nothing is now: a trace with nothing to
    /// attach to should wait for it.
    pub fn may_match_later(&self) -> bool {
        self.rules.waits()
    }

    /// Whether anything of the target still runs or can still begin to run. What was not named, but chosen by
    /// a property, always can.
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
        entries.iter().any(|entry| self.is_chosen(entry, descent(&entry.process.pid)))
    }

    /// Makes the processes those among `entries`, which are all, that are in scope.
    pub(super) fn look(&mut self, entries: Vec<ProcessEntry>) -> ScopeDelta {
        let mut seen = BTreeSet::new();
        for entry in &entries {
            self.decide_around(entry, &mut seen);
        }
        self.drop_gone(&seen);
        let followed = descendants(self.living_followed(&entries), &entries);
        let followed = entries.iter().filter(|entry| followed.contains(&entry.process.pid));
        self.followed = followed.map(|entry| (entry.process.pid, entry.process.start_time)).collect();
        let mut change = ScopeDelta { scope: self.scope_delta(), processes: Vec::new() };
        let known: HashMap<u32, u64> =
            self.processes.drain(..).map(|process| (process.pid, process.start_time)).collect();
        for entry in entries {
            let pid = entry.process.pid;
            let was_in = known.get(&pid) == Some(&entry.process.start_time);
            match (self.is_in_scope(&entry), self.rules.grain) {
                (true, _) if was_in => {
                    let process = self.process(entry);
                    self.processes.push(process);
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
        let is_told = self.rules.grain == Granularity::Whole && self.is_covered(&entry);
        if !is_told {
            change.scope.push(ScopeChange::EnterProcess(pid));
            if self.rules.grain == Granularity::Whole {
                self.followed.insert(pid, entry.process.start_time);
            }
        }
        let process = self.process(entry);
        self.processes.push(process.clone());
        change.processes.push(process);
    }

    fn process(&self, entry: ProcessEntry) -> Process {
        Process { container: self.containers.of_cgroups(&entry.cgroups), ..entry.process.into() }
    }

    /// Whether a process is chosen, by itself or by its container, and not kept out.
    fn is_chosen(&self, entry: &ProcessEntry, descent: Descent) -> bool {
        if self.is_unexplained(entry) {
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
    }

    /// Whether it may be in a container that is excluded, as its cgroup is new.
    fn is_unexplained(&self, entry: &ProcessEntry) -> bool {
        self.rules.has_exclusions() && self.containers.unexplained(|all| all.holds(&entry.cgroups))
    }

    fn is_in_scope(&self, entry: &ProcessEntry) -> bool {
        let is_known = self.followed.get(&entry.process.pid) == Some(&entry.process.start_time);
        self.has_in_scope(entry, if is_known { Descent::Selected } else { Descent::Other })
    }

    fn has_in_scope(&self, entry: &ProcessEntry, descent: Descent) -> bool {
        let looks = Seen { proc: self.containers.proc(), entry };
        self.is_chosen(entry, descent)
            && (self.rules.grain == Granularity::Whole || self.rules.matches_process(&looks))
    }

    /// Whether the kernel lets it through by what it was told before.
    fn is_covered(&self, entry: &ProcessEntry) -> bool {
        let path = entry.cgroups.unified.as_deref();
        self.scope.all
            || self.followed.get(&entry.process.pid) == Some(&entry.process.start_time)
            || entry.namespace.is_some_and(|id| self.scope.pid_namespaces.contains(&id))
            || path.is_some_and(|path| {
                self.scope.cgroups.iter().any(|cgroup| is_below(path, cgroup.path.as_bytes()))
            })
    }

    fn descent(&self, entry: &ProcessEntry) -> Descent {
        if self.is_followed(entry) { Descent::Selected } else { Descent::Other }
    }

    /// Whether it or one that it descends from is followed, as the parents are now.
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

    /// Processes that are followed and still the ones that had their pid.
    fn living_followed(&self, entries: &[ProcessEntry]) -> Vec<u32> {
        let lives =
            |entry: &&ProcessEntry| self.followed.get(&entry.process.pid) == Some(&entry.process.start_time);
        entries.iter().filter(lives).map(|entry| entry.process.pid).collect()
    }

    /// Keeps the list of processes from growing for ever.
    fn drop_ended(&mut self) {
        if self.processes.len() < self.most + ENDED {
            return;
        }
        let proc = self.containers.proc();
        self.processes.retain(|process| proc.is_alive(process.pid, process.start_time));
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

/// A process, for the questions of [`crate::scope::matcher`].
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
