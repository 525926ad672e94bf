//! Selection with fixtures instead of /proc, and of this process itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use super::*;
use crate::container::runtime::ContainerInfo;
use crate::proc::process::fixture::{Fake, OWN, ProcTree};
use crate::scope::error::Kind;
use crate::scope::{ContainerName, Criteria};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(in crate::scope) fn id(letter: char) -> String {
    letter.to_string().repeat(64)
}

pub(in crate::scope) fn listed(letter: char, name: &str) -> ContainerInfo {
    ContainerInfo {
        id: id(letter),
        names: vec![name.to_owned()],
        image: None,
        is_running: true,
        state: "running".to_owned(),
        runtime: "none",
        ..ContainerInfo::default()
    }
}

pub(in crate::scope) fn list(containers: Vec<ContainerInfo>) -> Listing {
    Listing { containers, answered: vec!["none"], ..Listing::default() }
}

fn listing() -> Listing {
    let dead = ContainerInfo { is_running: false, state: "exited".to_owned(), ..listed('c', "dead") };
    list(vec![listed('a', "web"), dead, listed('d', "elsewhere")])
}

/// A host with a container a (init 30, a nested namespace, a process 40 from `docker exec`) and a container b
/// that no runtime lists.
pub(in crate::scope) fn tree() -> ProcTree {
    let tree = ProcTree::new();
    let a = format!("/docker/{}", id('a'));
    let nested = format!("{a}/nested");
    let b = format!("/docker/{}", id('b'));
    let host = |pid, parent| Fake { pid, parent, ..Fake::default() };
    tree.add(&host(1, 0));
    tree.add(&host(20, 1));
    tree.add(&Fake { pid: 30, parent: 20, nspid: "1", namespace: "a", cgroup: &a, ..Fake::default() });
    tree.add(&Fake { pid: 31, parent: 30, nspid: "7", namespace: "a", cgroup: &a, ..Fake::default() });
    let inner = Fake { namespace: "n", cgroup: &nested, ..Fake::default() };
    tree.add(&Fake { pid: 32, parent: 31, nspid: "8\t1", ..inner });
    tree.add(&Fake { pid: 40, parent: 20, nspid: "9", namespace: "a", cgroup: &a, ..Fake::default() });
    tree.add(&Fake { pid: 50, parent: 20, nspid: "1", namespace: "b", cgroup: &b, ..Fake::default() });
    tree.add(&Fake { pid: 60, parent: 1, state: "Z", ..Fake::default() });
    tree.add(&host(70, 1));
    tree.add(&host(71, 70));
    tree.add(&host(OWN, 70));
    tree
}

fn resolve(tree: &ProcTree, selector: &Selector) -> Result<Target, TargetError> {
    resolve_with(tree, None, listing(), selector)
}

pub(in crate::scope) fn resolve_with(
    tree: &ProcTree,
    hierarchy: Option<Hierarchy>,
    listing: Listing,
    selector: &Selector,
) -> Result<Target, TargetError> {
    run(selector.resolve_in(World::read(tree.proc(), hierarchy, listing)?))
}

pub(in crate::scope) fn container(name: &str) -> Selector {
    let names = vec![ContainerName { runtime: None, name: name.to_owned() }];
    Selector { containers: Criteria { names, ..Criteria::default() }, ..Selector::default() }
}

pub(in crate::scope) fn process(pid: u32) -> Selector {
    Selector { pids: vec![pid], ..Selector::default() }
}

pub(in crate::scope) fn pids(target: &Target) -> Vec<u32> {
    target.processes.iter().map(|process| process.pid).collect()
}

#[test]
fn a_container_without_cgroup_v2_is_its_processes() {
    let target = resolve(&tree(), &container("web")).unwrap();
    assert_eq!(pids(&target), [30, 31, 32, 40]);
    assert_eq!(
        (target.scope.pid_namespaces.as_slice(), target.scope.pids.as_slice()),
        (&[][..], &[30, 31, 32, 40][..])
    );
    assert!(target.scope.watch && !target.scope.leaves_at_exec);
    let first = target.processes.first().unwrap().container.clone().unwrap();
    assert_eq!(first.name.as_deref(), Some("web"));
    for process in &target.processes {
        assert!(Arc::ptr_eq(process.container.as_ref().unwrap(), &first));
    }
}

#[test]
fn a_container_that_no_runtime_lists_is_found_by_its_id() {
    let target = resolve(&tree(), &container("bbb")).unwrap();
    assert_eq!(pids(&target), [50]);
    let found = target.processes.first().unwrap().container.clone().unwrap();
    assert_eq!((found.id.as_str(), found.name.as_deref()), (id('b').as_str(), None));
}

#[test]
fn a_container_in_the_hosts_namespace_is_its_pids() {
    let tree = tree();
    let cgroup = format!("/docker/{}", id('e'));
    tree.add(&Fake { pid: 80, cgroup: &cgroup, ..Fake::default() });
    let target = resolve(&tree, &container("eee")).unwrap();
    assert_eq!((pids(&target), target.scope.pids), (vec![80], vec![80]));
    assert_eq!(target.scope.pid_namespaces, []);
}

#[test]
fn a_process_is_it_and_its_descendants() {
    let target = resolve(&tree(), &process(70)).unwrap();
    assert_eq!(pids(&target), [70, 71], "and not ctrace, its other child");
    assert_eq!((target.scope.pids, target.scope.pid_namespaces), (vec![70, 71], vec![]));
}

#[test]
fn an_init_is_its_namespace_and_the_nested_ones() {
    let target = resolve(&tree(), &process(30)).unwrap();
    assert_eq!(pids(&target), [30, 31, 32, 40]);
    assert_eq!((target.scope.pids.as_slice(), target.scope.pid_namespaces.len()), (&[30, 31, 32, 40][..], 1));
    assert!(target.processes.iter().all(|process| process.container.is_some()));
    let target = resolve(&tree(), &process(31)).unwrap();
    assert_eq!((pids(&target), target.scope.pid_namespaces.len()), (vec![31, 32], 0));
}

#[test]
fn everything_is_everything_but_ctrace() {
    let selector = Selector { all: true, ..Selector::default() };
    let target = resolve(&tree(), &selector).unwrap();
    assert!(target.scope.all);
    assert_eq!(pids(&target), [1, 20, 30, 31, 32, 40, 50, 70, 71]);
}

#[test]
fn what_cannot_be_is_an_error_of_its_kind() {
    let tree = tree();
    std::fs::create_dir(tree.path().join("77")).unwrap();
    std::fs::write(tree.path().join("77/status"), "Tgid:\t70\n").unwrap();
    let cases = [
        (Selector::default(), Kind::Failed, "nothing is selected"),
        (process(5), Kind::NotFound, "there is no process 5"),
        (process(60), Kind::NotFound, "process 60 is a kernel thread, or has exited"),
        (process(77), Kind::NotFound, "77 is a thread of process 70"),
        (process(OWN), Kind::Failed, "process 900 is ctrace itself"),
        (container("dead"), Kind::NotFound, "container \"dead\" is not running (it is \"exited\")"),
        (container("elsewhere"), Kind::NotFound, "container \"elsewhere\" runs, but none of its processes"),
        (
            container("wbe"),
            Kind::NotFound,
            "no container has a name or id that starts with \"wbe\"; did you mean \"web\"",
        ),
    ];
    for (selector, kind, text) in cases {
        let error = resolve(&tree, &selector).unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    }
    let missing = World::read(Proc::new(tree.path().join("absent"), OWN), None, listing());
    assert!(matches!(missing, Err(TargetError::Proc(_))));
}

#[test]
fn new_processes_are_found_and_ended_ones_forgotten() {
    let tree = tree();
    let mut target = resolve(&tree, &process(70)).unwrap();
    assert_eq!(target.rescan(), ScopeDelta::default());
    tree.add(&Fake { pid: 72, parent: 71, ..Fake::default() });
    let new = target.rescan();
    assert_eq!(new.scope, [], "the kernel has followed the fork itself");
    assert_eq!(new.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [72]);
    // Its parents exit. It now belongs to init, and is still followed.
    tree.remove(70);
    tree.remove(71);
    tree.remove(72);
    tree.add(&Fake { pid: 72, parent: 1, ..Fake::default() });
    tree.add(&Fake { pid: 73, parent: 72, ..Fake::default() });
    assert_eq!(target.rescan().processes.len(), 1);
    assert_eq!(pids(&target), [72, 73]);
    assert!(target.any_alive());
    tree.remove(72);
    tree.remove(73);
    assert!(!target.any_alive());
}

#[test]
fn a_pid_that_is_used_again_is_not_followed() {
    let tree = tree();
    let mut target = resolve(&tree, &process(71)).unwrap();
    tree.remove(71);
    tree.add(&Fake { pid: 71, ..Fake::default() });
    let stat = std::fs::read_to_string(tree.path().join("71/stat")).unwrap();
    std::fs::write(tree.path().join("71/stat"), stat.replace(" 171 ", " 5555 ")).unwrap();
    assert_eq!(target.rescan(), ScopeDelta::default());
    assert_eq!(pids(&target), [] as [u32; 0]);
}

#[test]
fn a_namespace_lives_as_long_as_a_process_in_it() {
    let tree = tree();
    let mut target = resolve(&tree, &process(30)).unwrap();
    for pid in [30, 31, 32, 40] {
        tree.remove(pid);
    }
    assert!(!target.any_alive());
    tree.add(&Fake { pid: 41, nspid: "12", namespace: "a", ..Fake::default() });
    assert!(target.any_alive());
    let change = target.rescan();
    assert_eq!((change.scope, change.processes.len()), (vec![], 1));
}

#[test]
fn a_container_without_cgroup_v2_lives_as_long_as_a_process_in_it() {
    let tree = tree();
    let mut target = resolve(&tree, &container("web")).unwrap();
    for pid in [30, 31, 32, 40] {
        tree.remove(pid);
    }
    assert!(!target.any_alive());
    let cgroup = format!("/docker/{}", id('a'));
    tree.add(&Fake { pid: 41, nspid: "12", namespace: "a", cgroup: &cgroup, ..Fake::default() });
    assert!(target.any_alive());
    let change = target.executed(41);
    assert_eq!((change.scope, change.processes.len()), (vec![ScopeChange::EnterProcess(41)], 1));
}

#[test]
fn a_circle_of_parents_ends() {
    let tree = ProcTree::new();
    tree.add(&Fake { pid: 5, parent: 6, ..Fake::default() });
    tree.add(&Fake { pid: 6, parent: 5, ..Fake::default() });
    assert_eq!(pids(&resolve(&tree, &process(5)).unwrap()), [5, 6]);
}
