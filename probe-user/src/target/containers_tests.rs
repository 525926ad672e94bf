//! Facts about containers, over trees of fixtures.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::target::proc::fixture::{Fake, Tree};

fn listed(letter: char, name: &str) -> Listed {
    Listed {
        id: letter.to_string().repeat(64),
        names: vec![name.to_owned()],
        image: Some("img".into()),
        is_running: true,
        state: "running".into(),
        runtime: "docker",
        ..Listed::default()
    }
}

fn listing(containers: Vec<Listed>) -> Listing {
    Listing { containers, answered: vec!["docker"], ..Listing::default() }
}

#[test]
fn a_late_process_gets_its_container_and_one_that_has_gone_keeps_it() {
    let id = "a".repeat(64);
    let tree = Tree::new();
    let cgroup = format!("/docker/{id}");
    tree.add(&Fake { pid: 30, nspid: "9", cgroup: &cgroup, ..Fake::default() });
    tree.add(&Fake { pid: 31, ..Fake::default() });
    let mut containers = Containers::new(tree.proc(), None, &listing(vec![listed('a', "web")]));
    let origin = containers.origin(30, 5);
    assert_eq!((origin.process.pid, origin.process.vpid), (30, Some(9)));
    let container = origin.container.unwrap();
    assert_eq!((container.name.as_deref(), container.id.as_str()), (Some("web"), id.as_str()));
    assert_eq!(containers.origin(31, 5).container, None);
    containers.seen_in(&id, 5);
    assert_eq!(containers.origin(31, 5).container, None, "it is there and in no container");
    let gone = containers.origin(99, 5);
    assert_eq!((gone.process.vpid, gone.process.executable), (None, None));
    assert!(Arc::ptr_eq(&gone.container.unwrap(), &container));
    assert!(!containers.has_unnamed());
    assert_eq!(containers.get(&"b".repeat(64)).name, None);
    assert!(containers.has_unnamed());
}

#[test]
fn a_name_that_is_learned_late_is_everywhere() {
    let id = "a".repeat(64);
    let containers = Containers::default();
    let mut other = containers.clone();
    assert_eq!(containers.seen_in(&id, 5).unwrap().name, None);
    let version = other.version();
    containers.learn(&listing(vec![listed('b', "db")]));
    assert!(!other.has_unnamed(), "the answer did not have it: it is not asked for at once");
    containers.learn(&listing(vec![listed('a', "web"), listed('a', "other runtime")]));
    assert!(other.version() > version);
    assert_eq!(other.origin(99, 5).container.unwrap().name.as_deref(), Some("web"));
    let version = other.version();
    containers.learn(&listing(vec![listed('a', "web")]));
    assert_eq!(other.version(), version, "nothing new");
}

#[test]
fn what_has_gone_is_kept_for_a_while_and_no_longer() {
    let id = "a".repeat(64);
    let mut containers = Containers::default();
    containers.learn(&listing(vec![listed('a', "web")]));
    containers.seen_in(&id, 5);
    containers.seen_in(&id, 6);
    containers.cgroup_gone(5);
    assert_eq!(containers.fact(&id).unwrap().gone, None, "it has another cgroup");
    containers.cgroup_gone(6);
    containers.cgroup_gone(7);
    // The runtime has removed it; late events have its name all the same.
    containers.learn(&listing(vec![]));
    assert_eq!(containers.origin(99, 5).container.unwrap().name.as_deref(), Some("web"));
    let later = Instant::now() + KEPT;
    containers.known().forget(later);
    assert!(containers.fact(&id).is_none());
    assert_eq!(containers.origin(99, 5).container, None);
    // One that starts again is there again.
    containers.seen_in(&id, 8);
    assert_eq!(containers.fact(&id).unwrap().gone, None);
}

#[test]
fn memory_has_an_end() {
    let containers = Containers::default();
    for number in 0..REMEMBERED as u64 + 10 {
        containers.seen_in(&format!("{number:064x}"), number);
    }
    let known = containers.known();
    assert_eq!((known.by_id.len(), known.by_cgroup.len()), (REMEMBERED, REMEMBERED));
    drop(known);
    assert_eq!(containers.get(&"f".repeat(64)).id.len(), 64);
    for number in 0..10 {
        containers.cgroup_gone(number);
    }
    containers.known().forget(Instant::now() + KEPT);
    assert_eq!(containers.known().by_id.len(), REMEMBERED - 10);
}

#[test]
fn a_container_cannot_take_anothers_id() {
    let (a, b, x) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let containers = Containers::default();
    let of = |path: &str| {
        let membership = Membership::of_path(path.as_bytes());
        containers.of_cgroups(&membership).map(|container| container.id.clone())
    };
    assert_eq!(of(&format!("/docker/{a}")), Some(a.clone()));
    assert_eq!(of(&format!("/docker/{b}/docker-{a}.scope")), Some(b.clone()), "b pretends to be a");
    assert_eq!(of(&format!("/docker/{b}/docker-{x}.scope")), Some(x), "a container in a container");
    assert_eq!(of(&format!("/docker/{a}/docker-{a}.scope")), Some(a));
    assert_eq!(of("/system.slice"), None);
}
