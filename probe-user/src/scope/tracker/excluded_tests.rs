//! What is excluded stays out, while facts are missing and when they change. With fixtures instead of /proc.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::tests::{FakeMachine, all_but_image, at, comm, docker, nothing, of_image};
use super::*;
use crate::container::runtime::{ContainerInfo, Extent, ImageNames};
use crate::proc::process::fixture::Fake;
use crate::scope::resolve::tests::{container, list, listed, pids};
use crate::scope::{Properties, Selector};

fn all_but(name: &str) -> Selector {
    Selector { all: true, exclude: container(name).containers, ..Selector::default() }
}

/// The answer of runtimes that are asked now.
fn answered(containers: Vec<ContainerInfo>) -> Listing {
    Listing { queried_at: Some(Instant::now()), ..list(containers) }
}

#[test]
fn an_image_whose_names_could_not_be_asked_is_kept_out_until_they_are() {
    let machine = FakeMachine::new();
    let cgroup = machine.run('a', 30, "x");
    let of = |extent| {
        let image_names = ImageNames { names: ["x:1".to_owned()].into(), extent };
        ContainerInfo { image_names, ..of_image('a', "web", "x:1") }
    };
    let mut target = machine.target(list(vec![of(Extent::Part)]), &all_but_image("pg"));
    assert_eq!((target.scope.excluded.as_slice(), pids(&target)), (&[at('a', cgroup)][..], vec![1]));
    assert!(target.missing_facts().is_some(), "it is asked for again");
    assert_eq!(target.on_runtime_listing(&answered(vec![of(Extent::Part)])), nothing());
    assert!(target.missing_facts().is_none(), "and not at once");
    let change = target.on_runtime_listing(&answered(vec![of(Extent::All)]));
    assert_eq!((change.scope, change.processes.len()), (vec![ScopeChange::ForgetCgroup(cgroup)], 1));
    // Its tag is moved to an image that is excluded, or it gets a tag that is excluded.
    let image_names = ImageNames { names: ["x:1".to_owned(), "pg:9".to_owned()].into(), extent: Extent::All };
    let change = target.on_runtime_listing(&answered(vec![ContainerInfo { image_names, ..of(Extent::All) }]));
    assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(at('a', cgroup))]);
}

#[test]
fn what_is_excluded_by_its_name_stays_out_when_it_is_renamed() {
    let machine = FakeMachine::new();
    let mut target = machine.target(list(vec![]), &all_but("web"));
    let [web, db] = ['a', 'b'].map(|letter| machine.run(letter, u32::from(letter), "x"));
    for letter in ['a', 'b'] {
        target.cgroup_created(docker(letter).as_bytes(), if letter == 'a' { web } else { db });
    }
    target.on_runtime_listing(&answered(vec![listed('a', "web"), listed('b', "db")]));
    assert_eq!((target.scope.excluded.as_slice(), target.contains(98)), (&[at('a', web)][..], true));
    // docker rename web x; docker rename db web
    let change = target.on_runtime_listing(&answered(vec![listed('a', "x"), listed('b', "web")]));
    assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(at('b', db))]);
    assert_eq!(target.executed(97), nothing());
    assert!(!target.contains(97) && !target.contains(98) && target.contains(1));
    // The kernel does not report a rename, so the runtimes are asked from time to time.
    assert!(target.missing_facts().is_none());
    target.listed_at = Instant::now().checked_sub(CHECKED);
    assert!(target.missing_facts().is_some());
    target.on_runtime_listing(&answered(vec![]));
    assert!(target.missing_facts().is_none());
}

#[test]
fn a_new_cgroup_is_kept_out_until_its_container_is_reported() {
    let machine = FakeMachine::new();
    let mut target = machine.target(list(vec![]), &all_but_image("pg"));
    let paths = ["/default/db", "/default/web", "/system.slice/x.service"];
    let made = paths.map(|path| machine.make(path));
    let cgroup = |index: usize| Cgroup { id: made[index], level: 2, path: paths[index].to_owned() };
    for (index, pid) in [(0, 30), (1, 31), (2, 32)] {
        let change = target.cgroup_created(paths[index].as_bytes(), made[index]);
        assert_eq!(change.scope, [ScopeChange::ExcludeCgroup(cgroup(index))]);
        machine.tree.add(&Fake { pid, cgroup: paths[index], ..Fake::default() });
        assert_eq!(target.executed(pid), nothing());
        assert!(!target.contains(pid) && target.missing_facts().is_some());
    }
    // No answer yet to a question that was sent after the cgroups were created.
    assert_eq!(target.on_runtime_listing(&list(vec![])), nothing());
    let one = |name: &str, image: &str| ContainerInfo {
        id: name.to_owned(),
        cgroup: Some(format!("/default/{name}").into()),
        ..of_image('a', name, image)
    };
    let change = target.on_runtime_listing(&answered(vec![one("db", "pg"), one("web", "nginx")]));
    let mut let_in = [made[1], made[2]].map(ScopeChange::ForgetCgroup);
    let_in.sort_by_key(|change| format!("{change:?}"));
    let mut found = change.scope;
    found.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(found, let_in);
    assert_eq!(change.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [31, 32]);
    assert_eq!(target.scope.excluded, [cgroup(0)]);
    // Without exclusions, nothing waits.
    let mut target = machine.target(list(vec![]), &Selector { all: true, ..Selector::default() });
    assert_eq!(target.cgroup_created(b"/default/x", 5), nothing());
}

#[test]
fn what_is_excluded_too_far_down_is_out_with_what_it_is_in() {
    let machine = FakeMachine::new();
    let parent = "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o";
    let path = format!("{parent}{}", docker('a'));
    machine.make(&path);
    let above = fs::metadata(machine.cgroups.path().join(&parent[1..])).unwrap().ino();
    machine.tree.add(&Fake { pid: 30, cgroup: &path, ..Fake::default() });
    let target = machine.target(list(vec![of_image('a', "db", "pg")]), &all_but_image("pg"));
    assert_eq!(target.scope.excluded, [Cgroup { id: above, level: 15, path: parent.to_owned() }]);
    assert_eq!(pids(&target), [1]);
}

#[test]
fn a_process_that_becomes_what_is_excluded_goes() {
    let machine = FakeMachine::new();
    machine.host(50, 1, "nginx");
    machine.host(51, 1, "nginx");
    let never = Properties { uids: vec![33], comms: vec!["secret".to_owned()], ..Properties::default() };
    let selector = Selector { exclude_processes: never, all: true, ..Selector::default() };
    let mut target = machine.target(list(vec![]), &selector);
    assert!(target.rechecks_processes());
    // A worker that was forked, which is not reported, and then changed its user; and a process that changed
    // its name.
    machine.tree.add(&Fake { pid: 52, parent: 50, comm: b"nginx", uid: 33, ..Fake::default() });
    machine.exec(51, "secret");
    let change = target.recheck(&[50, 51, 52, 99]);
    assert_eq!(change.scope, [ScopeChange::LeaveProcess(51), ScopeChange::LeaveProcess(52)]);
    assert!(target.contains(50) && !target.contains(51) && !target.contains(52));
    // Selected processes are only matched at an exec.
    let only = Selector { processes: comm("nginx"), ..Selector::default() };
    assert!(!machine.target(list(vec![]), &only).rechecks_processes());
}
