//! Processes and containers that come and go, with fixtures instead of /proc.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::container::runtime::ContainerInfo;
use crate::proc::cgroup::Hierarchy;
use crate::proc::process::fixture::{Fake, ProcTree};
use crate::scope::resolve::tests::{container, id, list, listed, pids, process, resolve_with};
use crate::scope::{ContainerName, Criteria, Properties, Selector, TargetError};

/// A machine with cgroup v2: processes, and directories of cgroups.
pub(super) struct FakeMachine {
    pub(super) tree: ProcTree,
    pub(super) cgroups: tempfile::TempDir,
}

impl FakeMachine {
    pub(super) fn new() -> Self {
        let new = Self { tree: ProcTree::new(), cgroups: tempfile::tempdir().unwrap() };
        new.tree.add(&Fake { pid: 1, parent: 0, ..Fake::default() });
        new
    }

    /// Creates a cgroup, and returns its id.
    pub(super) fn make(&self, path: &str) -> u64 {
        let directory = self.cgroups.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cgroup.events"), "populated 1\n").unwrap();
        fs::write(directory.join("cgroup.procs"), "").unwrap();
        fs::metadata(directory).unwrap().ino()
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.cgroups.path().join(path.trim_start_matches('/'))).unwrap();
    }

    /// Creates a container that runs one process.
    pub(super) fn run(&self, letter: char, pid: u32, comm: &str) -> u64 {
        let cgroup = docker(letter);
        self.tree.add(&Fake { pid, comm: comm.as_bytes(), cgroup: &cgroup, ..Fake::default() });
        let id = self.make(&cgroup);
        let procs = self.cgroups.path().join(cgroup.trim_start_matches('/')).join("cgroup.procs");
        fs::write(procs, format!("{pid}\n")).unwrap();
        id
    }

    pub(super) fn host(&self, pid: u32, parent: u32, comm: &str) {
        self.tree.add(&Fake { pid, parent, comm: comm.as_bytes(), ..Fake::default() });
    }

    pub(super) fn exec(&self, pid: u32, comm: &str) {
        fs::write(self.tree.path().join(pid.to_string()).join("comm"), format!("{comm}\n")).unwrap();
    }

    fn try_target(&self, listing: Listing, selector: &Selector) -> Result<Target, TargetError> {
        resolve_with(&self.tree, Some(Hierarchy::at(self.cgroups.path())), listing, selector)
    }

    pub(super) fn target(&self, listing: Listing, selector: &Selector) -> Target {
        self.try_target(listing, selector).unwrap()
    }
}

pub(super) fn docker(letter: char) -> String {
    format!("/docker/{}", id(letter))
}

pub(super) fn at(letter: char, id: u64) -> Cgroup {
    Cgroup { id, level: 2, path: docker(letter) }
}

pub(super) fn of_image(letter: char, name: &str, image: &str) -> ContainerInfo {
    ContainerInfo { image: Some(image.to_owned()), ..listed(letter, name) }
}

fn image(name: &str) -> Selector {
    let containers = Criteria { images: vec![name.to_owned()], ..Criteria::default() };
    Selector { containers, ..Selector::default() }
}

pub(super) fn all_but_image(name: &str) -> Selector {
    Selector { all: true, exclude: image(name).containers, ..Selector::default() }
}

pub(super) fn comm(name: &str) -> Properties {
    Properties { comms: vec![name.to_owned()], ..Properties::default() }
}

pub(super) fn nothing() -> ScopeDelta {
    ScopeDelta::default()
}

#[test]
fn a_container_of_an_image_enters_the_scope_when_the_image_is_reported() {
    let machine = FakeMachine::new();
    let mut target = machine.target(list(vec![]), &image("nginx"));
    assert!(target.may_match_later() && target.any_alive() && target.scope.watch);
    assert_eq!((target.scope.cgroups.len(), target.missing_facts().is_some()), (0, false));
    let cgroup = machine.make(&docker('a'));
    assert_eq!(target.cgroup_created(docker('a').as_bytes(), cgroup), nothing());
    assert!(target.missing_facts().is_some());
    machine.run('a', 30, "nginx");
    assert_eq!(target.executed(30), nothing(), "its image is not known");
    assert!(!target.contains(30));
    // No runtime answers: the container stays undecided, and the next question is delayed.
    assert_eq!(target.on_runtime_listing(&Listing::default()), nothing());
    assert!(target.missing_facts().is_none());
    let change =
        target.on_runtime_listing(&list(vec![of_image('a', "web", "nginx:1"), of_image('b', "db", "pg")]));
    assert_eq!(change.scope, [ScopeChange::EnterCgroup(at('a', cgroup))]);
    assert_eq!(change.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [30]);
    let container = change.processes.first().unwrap().container.clone().unwrap();
    assert_eq!(container.name.as_deref(), Some("web"));
    assert!(target.contains(30) && !target.contains(1));
    // A container that was listed already is in scope before its first process runs.
    let other = machine.make(&docker('b'));
    assert_eq!(target.cgroup_created(docker('b').as_bytes(), other), nothing());
    assert!(target.missing_facts().is_none(), "it is another image");
    assert_eq!(target.cgroup_removed(cgroup).scope, [ScopeChange::ForgetCgroup(cgroup)]);
    let again = target.cgroup_created(docker('a').as_bytes(), 77);
    assert_eq!(again.scope, [ScopeChange::EnterCgroup(at('a', 77))], "it was started again");
}

#[test]
fn only_the_processes_of_containers_with_a_new_decision_are_read() {
    let machine = FakeMachine::new();
    machine.run('a', 30, "nginx");
    let first = of_image('a', "web", "nginx");
    let mut target = machine.target(list(vec![first.clone()]), &image("nginx"));
    let cgroup = machine.run('b', 40, "nginx");
    assert_eq!(target.cgroup_created(docker('b').as_bytes(), cgroup), nothing());
    // Nobody reports this process. A scan of all processes would find it.
    machine.tree.add(&Fake { pid: 31, cgroup: &docker('a'), ..Fake::default() });
    let second = of_image('b', "web2", "nginx");
    let change = target.on_runtime_listing(&list(vec![first.clone(), second.clone()]));
    assert_eq!(change.scope, [ScopeChange::EnterCgroup(at('b', cgroup))]);
    assert_eq!(pids(&target), [30, 40]);
    // All of them are read if some may be out of scope now, or if a container has no cgroup here.
    let renamed = of_image('b', "web2", "apache");
    let change = target.on_runtime_listing(&list(vec![first.clone(), renamed]));
    assert_eq!(change.scope, [ScopeChange::ForgetCgroup(cgroup)]);
    assert_eq!(pids(&target), [30, 31]);
    machine.tree.add(&Fake { pid: 32, cgroup: &docker('a'), ..Fake::default() });
    target.on_runtime_listing(&list(vec![first, of_image('c', "web3", "nginx")]));
    assert_eq!(pids(&target), [30, 31, 32]);
}

#[test]
fn a_cgroup_below_a_containers_changes_nothing() {
    let machine = FakeMachine::new();
    let cgroup = machine.run('a', 30, "nginx");
    let listing = list(vec![of_image('a', "web", "nginx")]);
    let mut target = machine.target(listing, &image("nginx"));
    assert_eq!((target.scope.cgroups.as_slice(), pids(&target)), (&[at('a', cgroup)][..], vec![30]));
    let below = format!("{}/init.scope", docker('a'));
    assert_eq!(target.cgroup_created(below.as_bytes(), 5), nothing());
    assert_eq!(target.cgroup_created(b"/system.slice/x.service", 6), nothing());
    assert_eq!(target.cgroup_created(b"", 7), nothing());
    assert_eq!(target.cgroup_created(&[0xff; 300], 8), nothing());
    assert_eq!(target.cgroup_removed(5), nothing());
    // Another container that names a cgroup of its own by this one's id.
    let forged = format!("{}/docker-{}.scope", docker('b'), id('a'));
    machine.make(&forged);
    assert_eq!(target.cgroup_created(forged.as_bytes(), 9), nothing());
    machine.tree.add(&Fake { pid: 66, cgroup: &forged, ..Fake::default() });
    assert_eq!(target.executed(66), nothing());
    assert_eq!(target.rescan(), nothing());
    assert!(!target.contains(66));
}

#[test]
fn what_might_be_excluded_is_kept_out_until_that_is_decided() {
    let machine = FakeMachine::new();
    let db = machine.run('a', 30, "pg");
    let unknown = machine.run('b', 40, "x");
    let listing =
        || list(vec![of_image('a', "db", "pg"), of_image('c', "web", "nginx"), of_image('d', "db2", "pg")]);
    let mut target = machine.target(listing(), &all_but_image("pg"));
    assert!(target.scope.all && target.may_match_later());
    let mut out = vec![at('a', db), at('b', unknown)];
    out.sort();
    assert_eq!((&target.scope.excluded, pids(&target)), (&out, vec![1]));
    let [web, db2, other] = ['c', 'd', 'e'].map(|letter| machine.make(&docker(letter)));
    assert_eq!(target.cgroup_created(docker('c').as_bytes(), web).scope, []);
    let change = target.cgroup_created(docker('d').as_bytes(), db2);
    assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(at('d', db2))]);
    let change = target.cgroup_created(docker('e').as_bytes(), other);
    assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(at('e', other))]);
    assert!(target.missing_facts().is_some());
    let change = target.on_runtime_listing(&list(vec![of_image('b', "x", "x")]));
    assert_eq!(change.scope, [ScopeChange::ForgetCgroup(unknown)]);
    assert!(pids(&target).contains(&40) && !pids(&target).contains(&30));
}

#[test]
fn a_name_is_followed_when_the_container_is_started_or_made_again() {
    let machine = FakeMachine::new();
    let first = machine.run('a', 30, "x");
    let mut target = machine.target(list(vec![listed('a', "web")]), &container("web"));
    assert_eq!(target.scope.cgroups, [at('a', first)]);
    assert!(!target.may_match_later() && target.any_alive());
    // The container is started again: the same id, another cgroup.
    machine.tree.remove(30);
    machine.remove(&docker('a'));
    assert!(!target.any_alive());
    assert_eq!(target.cgroup_removed(first).scope, [ScopeChange::ForgetCgroup(first)]);
    machine.make("/other");
    let second = machine.run('a', 31, "x");
    let change = target.cgroup_created(docker('a').as_bytes(), second);
    assert_eq!(change.scope, [ScopeChange::EnterCgroup(at('a', second))]);
    assert_eq!(target.executed(31).processes.len(), 1);
    assert!(target.any_alive());
    // The container is created again: the same name, another id. A container with another name does not
    // match.
    let third = machine.make(&docker('b'));
    assert_eq!(target.cgroup_created(docker('b').as_bytes(), third), nothing());
    let other = machine.make(&docker('c'));
    assert_eq!(target.cgroup_created(docker('c').as_bytes(), other), nothing());
    let change = target.on_runtime_listing(&list(vec![listed('b', "web"), listed('c', "web-2")]));
    assert_eq!(change.scope, [ScopeChange::EnterCgroup(at('b', third))]);
}

#[test]
fn processes_by_name_are_matched_at_every_exec() {
    let machine = FakeMachine::new();
    machine.host(50, 1, "curl");
    machine.host(51, 50, "sh");
    machine.host(52, 1, "sh");
    let selector = Selector { processes: comm("curl"), ..Selector::default() };
    let mut target = machine.target(list(vec![]), &selector);
    assert!(!target.scope.all && target.scope.leaves_at_exec && target.scope.watch);
    assert_eq!(
        (target.scope.pids.as_slice(), pids(&target)),
        (&[50][..], vec![50]),
        "not what it has started"
    );
    assert_eq!(target.executed(52), nothing());
    machine.exec(52, "curl");
    let change = target.executed(52);
    assert_eq!((change.scope, change.processes.len()), (vec![ScopeChange::EnterProcess(52)], 1));
    assert!(target.contains(52) && !target.contains(51));
    // It was added to the scope, but may have executed something else just before that took effect.
    machine.exec(52, "sh");
    assert_eq!(target.executed(52).scope, [ScopeChange::LeaveProcess(52)]);
    assert_eq!(target.executed(52), nothing());
    assert_eq!(target.executed(4_000_000), nothing());
    // The same again: the kernel's filter has removed it.
    assert_eq!(target.executed(50).scope, [ScopeChange::EnterProcess(50)]);
    machine.exec(51, "curl");
    assert_eq!(target.rescan().scope, [ScopeChange::EnterProcess(51)]);
    assert!(target.any_alive());
}

#[test]
fn processes_of_a_container_by_name() {
    let machine = FakeMachine::new();
    machine.run('a', 30, "nginx");
    machine.run('b', 40, "nginx");
    machine.host(50, 1, "nginx");
    let selector = Selector { processes: comm("nginx"), ..container("web") };
    let mut target = machine.target(list(vec![listed('a', "web"), listed('b', "db")]), &selector);
    assert_eq!((target.scope.pids.as_slice(), target.scope.cgroups.len()), (&[30][..], 0));
    machine.tree.add(&Fake { pid: 31, comm: b"sh", cgroup: &docker('a'), ..Fake::default() });
    assert_eq!(target.executed(31), nothing());
    machine.exec(31, "nginx");
    assert_eq!(target.executed(31).scope, [ScopeChange::EnterProcess(31)]);
    assert_eq!((target.executed(40), target.executed(50)), (nothing(), nothing()));
    let selector = Selector { pids: vec![], ..Selector { processes: comm("nginx"), ..process(50) } };
    assert_eq!(pids(&machine.target(list(vec![]), &selector)), [30, 31, 40, 50]);
    let never = Selector { exclude_processes: comm("nginx"), all: true, ..Selector::default() };
    assert_eq!(pids(&machine.target(list(vec![]), &never)), [1]);
}

#[test]
fn a_tree_of_processes_narrowed_and_with_an_excluded_container_in_it() {
    let machine = FakeMachine::new();
    machine.host(70, 1, "make");
    machine.host(71, 70, "curl");
    let selector = Selector { processes: comm("curl"), ..process(70) };
    let mut target = machine.target(list(vec![]), &selector);
    assert_eq!(target.scope.pids, [71]);
    machine.host(72, 71, "sh");
    assert_eq!(target.executed(72), nothing());
    machine.exec(72, "curl");
    assert_eq!(target.executed(72).scope, [ScopeChange::EnterProcess(72)]);
    machine.host(80, 1, "curl");
    assert_eq!(target.executed(80), nothing(), "it is of another tree");
    // A container that a process of the tree has started.
    let inside = machine.run('a', 73, "pg");
    machine.tree.remove(73);
    machine.tree.add(&Fake { pid: 73, parent: 70, comm: b"pg", cgroup: &docker('a'), ..Fake::default() });
    let selector = Selector { exclude: image("pg").containers, ..process(70) };
    let target = machine.target(list(vec![of_image('a', "db", "pg")]), &selector);
    assert_eq!((target.scope.excluded.as_slice(), pids(&target)), (&[at('a', inside)][..], vec![70, 71, 72]));
    // Without cgroup v2 the kernel's filter cannot exclude it, so processes are added one by one.
    let target = resolve_with(&machine.tree, None, list(vec![of_image('a', "db", "pg")]), &selector).unwrap();
    assert!(target.scope.leaves_at_exec && target.scope.pids == [70, 71, 72], "{:?}", target.scope);
}

#[test]
fn without_cgroup_v2_an_exec_reveals_a_new_container() {
    let machine = FakeMachine::new();
    let mut target = resolve_with(&machine.tree, None, list(vec![]), &image("nginx")).unwrap();
    machine.run('a', 30, "runc");
    assert_eq!(target.executed(30), nothing());
    assert!(target.missing_facts().is_some());
    let change = target.on_runtime_listing(&list(vec![of_image('a', "web", "nginx")]));
    assert_eq!((change.scope, change.processes.len()), (vec![ScopeChange::EnterProcess(30)], 1));
    machine.tree.add(&Fake { pid: 31, comm: b"sh", cgroup: &docker('a'), ..Fake::default() });
    assert_eq!(target.executed(31).scope, [ScopeChange::EnterProcess(31)]);
    machine.tree.remove(30);
    machine.tree.remove(31);
    assert_eq!(target.rescan(), nothing());
    assert!(target.members.is_empty() && target.followed.is_empty() && target.processes.is_empty());
}

#[test]
fn selecting_only_what_is_excluded_is_an_error() {
    let machine = FakeMachine::new();
    machine.run('a', 30, "x");
    let listing = || list(vec![of_image('a', "web", "nginx")]);
    let exclude = image("nginx").containers;
    let error = machine
        .try_target(listing(), &Selector { exclude: exclude.clone(), ..container("web") })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "container web; not image nginx: everything that is selected is also excluded; change one of the two"
    );
    // An excluded name that no container has yet is not an error: a container with that name may start later.
    let names = vec![ContainerName { runtime: None, name: "later".to_owned() }];
    let exclude = Criteria { names, ..Criteria::default() };
    let selector = Selector { exclude, all: true, ..Selector::default() };
    let mut target = machine.target(listing(), &selector);
    assert_eq!(pids(&target), [1, 30]);
    let cgroup = machine.make(&docker('b'));
    let change = target.cgroup_created(docker('b').as_bytes(), cgroup);
    assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(at('b', cgroup))]);
    let change = target.on_runtime_listing(&list(vec![of_image('a', "web", "nginx"), listed('b', "later")]));
    assert_eq!(change.scope, [], "it stays out");
}

#[test]
fn many_containers_come_and_go_and_nothing_is_left() {
    let machine = FakeMachine::new();
    let mut target = machine.target(list(vec![]), &image("nginx"));
    for number in 1000..2000_u64 {
        let path = format!("/docker/{number:064x}");
        assert_eq!(target.cgroup_created(path.as_bytes(), number), nothing());
        assert_eq!(target.members.len(), 1);
        assert_eq!(target.cgroup_removed(number), nothing());
        assert!(target.members.is_empty());
    }
    assert!(target.missing_facts().is_none(), "they have gone");
}
