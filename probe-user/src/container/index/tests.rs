//! Facts about containers, with fixtures instead of /proc.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use super::*;
use crate::container::unclaimed::NewCgroup;
use crate::proc::process::fixture::{Fake, ProcTree};

fn listed(letter: char, name: &str) -> ContainerInfo {
    ContainerInfo {
        id: letter.to_string().repeat(64),
        names: vec![name.to_owned()],
        image: Some("img".into()),
        is_running: true,
        state: "running".into(),
        runtime: "docker",
        ..ContainerInfo::default()
    }
}

fn listing(containers: Vec<ContainerInfo>) -> Listing {
    Listing { containers, answered: vec!["docker"], ..Listing::default() }
}

/// The container of a process, which must be in one.
fn inside(origin: &ProcessContext) -> Arc<Container> {
    match &origin.container {
        Containment::In(container) => Arc::clone(container),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_host_is_said_of_what_is_there_alone() {
    let (tree, hierarchy) = (ProcTree::new(), tempfile::tempdir().unwrap());
    let directory = hierarchy.path().join("default/web");
    std::fs::create_dir_all(&directory).unwrap();
    let cgroup = std::os::unix::fs::MetadataExt::ino(&directory.metadata().unwrap());
    tree.add(&Fake { pid: 30, cgroup: "/default/web", ..Fake::default() });
    tree.add(&Fake { pid: 31, cgroup: "/", ..Fake::default() });
    let hierarchy = Hierarchy::at(hierarchy.path());
    let containers = ContainerIndex::new(tree.proc(), Some(hierarchy), &listing(Vec::new()));
    let made = NewCgroup { path: b"/default/web".to_vec(), at: Instant::now() };
    containers.unclaimed(|all| all.insert(cgroup, made));
    // No runtime has said yet whether the cgroup is a container's, and a process that exited before it was
    // inspected may have been in it.
    for (pid, expected) in [(30, Containment::Unknown), (31, Containment::Host), (99, Containment::Unknown)] {
        assert_eq!(containers.of_process(pid, 0), expected, "{pid}");
    }
    assert_eq!(containers.of_process(30, cgroup), Containment::Unknown);
    containers.unclaimed(|all| all.remove(cgroup));
    assert_eq!(containers.of_process(30, cgroup), Containment::Host, "the runtimes have told");
    tree.remove(30);
    assert_eq!(containers.of_process(30, cgroup), Containment::Host, "its cgroup tells");
    assert_eq!(containers.of_process(30, 0), Containment::Unknown);
}

#[test]
fn a_late_process_gets_its_container_and_one_that_has_exited_keeps_it() {
    let id = "a".repeat(64);
    let tree = ProcTree::new();
    let cgroup = format!("/docker/{id}");
    tree.add(&Fake { pid: 30, nspid: "9", cgroup: &cgroup, ..Fake::default() });
    tree.add(&Fake { pid: 31, ..Fake::default() });
    let mut containers = ContainerIndex::new(tree.proc(), None, &listing(vec![listed('a', "web")]));
    let origin = containers.origin(30, 5);
    assert_eq!((origin.process.pid, origin.process.vpid), (30, Some(9)));
    let container = inside(&origin);
    assert_eq!((container.name.as_deref(), container.id.as_str()), (Some("web"), id.as_str()));
    assert_eq!(containers.origin(31, 5).container, Containment::Host);
    containers.seen_in(&id, 5);
    assert_eq!(containers.origin(31, 5).container, Containment::Host, "it is there and in no container");
    let exited = containers.origin(99, 5);
    assert!(Arc::ptr_eq(&inside(&exited), &container));
    assert_eq!((exited.process.vpid, exited.process.executable), (None, None));
    assert!(containers.unnamed().is_none());
    assert_eq!(containers.get(&"b".repeat(64)).name, None);
    assert!(containers.unnamed().is_some());
}

#[test]
fn a_cgroup_decides_the_container_of_all_in_it_until_more_is_reported() {
    let id = "a".repeat(64);
    let (tree, hierarchy) = (ProcTree::new(), tempfile::tempdir().unwrap());
    let root = hierarchy.path();
    let directory = root.join("docker").join(&id);
    std::fs::create_dir_all(&directory).unwrap();
    let number = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let (of_host, of_container) = (number(root), number(&directory));
    tree.add(&Fake { pid: 30, cgroup: &format!("/docker/{id}"), ..Fake::default() });
    tree.add(&Fake { pid: 31, cgroup: "/", ..Fake::default() });
    let containers =
        ContainerIndex::new(tree.proc(), Some(Hierarchy::at(root)), &listing(vec![listed('a', "web")]));
    let of = |pid, cgroup| {
        containers.of_process(pid, cgroup).container().and_then(|container| container.name.clone())
    };
    assert_eq!(of(30, of_container).as_deref(), Some("web"));
    assert_eq!(of(31, of_host), None);
    // Now nothing is read: a process may have changed its cgroup since, or have exited.
    assert_eq!(of(31, of_container).as_deref(), Some("web"));
    assert_eq!(of(30, of_host), None);
    assert_eq!(of(99, of_container).as_deref(), Some("web"));
    containers.update(&listing(vec![listed('a', "web"), listed('b', "db")]));
    assert_eq!(of(30, of_host).as_deref(), Some("web"), "/proc is asked again");
}

#[test]
fn a_name_that_is_reported_late_is_everywhere() {
    let id = "a".repeat(64);
    let containers = ContainerIndex::default();
    let mut other = containers.clone();
    assert_eq!(containers.seen_in(&id, 5).unwrap().name, None);
    let version = other.version();
    containers.update(&listing(vec![listed('b', "db")]));
    assert!(other.unnamed().is_none(), "the answer did not have it: it is not asked for at once");
    containers.update(&listing(vec![listed('a', "web")]));
    assert!(other.version() > version);
    assert_eq!(inside(&other.origin(99, 5)).name.as_deref(), Some("web"));
    let version = other.version();
    containers.update(&listing(vec![listed('a', "web")]));
    assert_eq!(other.version(), version, "nothing new");
}

#[test]
fn a_listing_of_some_containers_changes_nothing_about_others() {
    let ids = ['a', 'b', 'c'].map(|letter| letter.to_string().repeat(64));
    let [first, second, third] = &ids;
    let containers = ContainerIndex::default();
    containers.update(&listing(vec![listed('a', "web")]));
    assert_eq!(containers.unnamed(), None);
    for (id, cgroup) in [(second, 5), (third, 6)] {
        containers.seen_in(id, cgroup);
    }
    let both = ContainerQuery::FactsOf([second.clone(), third.clone()].into());
    assert_eq!(containers.unnamed(), Some(both));
    let partial = |ids: &[&String], containers| {
        let ids = ids.iter().map(|id| ((*id).clone(), Some(Instant::now()))).collect();
        Listing { partial: Some(ids), ..listing(containers) }
    };
    assert_eq!(containers.update(&partial(&[second], vec![listed('b', "db")])), std::slice::from_ref(second));
    assert_eq!(containers.fact(first).unwrap().ended_at, None, "it was not asked for");
    assert_eq!(containers.unnamed(), Some(ContainerQuery::FactsOf([third.clone()].into())));
    containers.update(&partial(&[third], Vec::new()));
    assert_eq!(containers.unnamed(), None, "no runtime has it: it is not asked for at once");
}

#[test]
fn what_has_ended_is_kept_for_a_while() {
    let id = "a".repeat(64);
    let mut containers = ContainerIndex::default();
    containers.update(&listing(vec![listed('a', "web")]));
    containers.seen_in(&id, 5);
    containers.seen_in(&id, 6);
    containers.cgroup_removed(5);
    assert_eq!(containers.fact(&id).unwrap().ended_at, None, "it has another cgroup");
    containers.cgroup_removed(6);
    containers.cgroup_removed(7);
    // The runtime has removed the container, but late events still get its name.
    containers.update(&listing(vec![]));
    assert_eq!(inside(&containers.origin(99, 5)).name.as_deref(), Some("web"));
    let later = Instant::now() + KEPT;
    containers.lock().forget(later);
    assert!(containers.fact(&id).is_none());
    assert_eq!(containers.origin(99, 5).container, Containment::Unknown);
    // A container that starts again is no longer gone.
    containers.seen_in(&id, 8);
    assert_eq!(containers.fact(&id).unwrap().ended_at, None);
}

#[test]
fn memory_has_an_end() {
    let containers = ContainerIndex::default();
    for number in 0..REMEMBERED as u64 + 10 {
        containers.seen_in(&format!("{number:064x}"), number);
    }
    let state = containers.lock();
    assert_eq!((state.by_key.len(), state.by_cgroup.len()), (REMEMBERED, REMEMBERED));
    drop(state);
    assert_eq!(containers.get(&"f".repeat(64)).id.len(), 64);
    for number in 0..10 {
        containers.cgroup_removed(number);
    }
    containers.lock().forget(Instant::now() + KEPT);
    assert_eq!(containers.lock().by_key.len(), REMEMBERED - 10);
}

#[test]
fn a_container_cannot_take_anothers_id() {
    let (a, b, x) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let containers = ContainerIndex::default();
    let of = |path: &str| {
        let membership = ProcCgroups::of_path(path.as_bytes());
        containers.of_cgroups(&membership).map(|container| container.id.clone())
    };
    assert_eq!(of(&format!("/docker/{a}")), Some(a.clone()));
    assert_eq!(of(&format!("/docker/{b}/docker-{a}.scope")), Some(b.clone()), "b pretends to be a");
    assert_eq!(of(&format!("/docker/{b}/docker-{x}.scope")), Some(b.clone()), "nobody knows x");
    assert_eq!(of(&format!("/docker/{a}/docker-{a}.scope")), Some(a.clone()));
    assert_eq!(of("/system.slice"), None);
    // A runtime that itself runs in b reports x. It also reports an a, which is within b, and is not the same
    // a.
    let within = Some(b.as_str().into());
    let inner = |letter| ContainerInfo { within: within.clone(), ..listed(letter, "inner") };
    containers.update(&listing(vec![inner('c'), inner('a')]));
    assert_eq!(of(&format!("/docker/{b}/docker-{x}.scope")), Some(x));
    let around =
        containers.enclosing(&ProcCgroups::of_path(format!("/docker/{b}/docker-{a}.scope/y").as_bytes()));
    let keys: Vec<&str> = around.iter().map(|place| place.key.as_str()).collect();
    assert_eq!(keys, [b.as_str(), &format!("{b}/{a}")]);
    let root = around.last().unwrap().root.clone().unwrap();
    assert_eq!(root, format!("/docker/{b}/docker-{a}.scope").into_bytes());
    assert_eq!(containers.fact(&a).unwrap().names, [] as [String; 0]);
}

#[test]
fn a_path_may_say_everything_and_an_id_nothing() {
    let containers = ContainerIndex::default();
    let of = |path: &str| {
        let membership = ProcCgroups::of_path(path.as_bytes());
        containers.of_cgroups(&membership).map(|container| (*container).clone())
    };
    let machine = of("/machine.slice/machine-web.scope/payload").unwrap();
    assert_eq!(
        (machine.name.as_deref(), machine.runtime.unwrap().name),
        (Some("web"), "systemd-nspawn".into())
    );
    assert!(containers.unnamed().is_none());
    assert_eq!(of("/default/web"), None);
    let by_path =
        ContainerInfo { id: "web".into(), cgroup: Some("/default/web".into()), ..listed('a', "web") };
    containers.update(&listing(vec![by_path]));
    assert_eq!(of("/default/web/below").unwrap().id, "web");
    assert_eq!(of("/default/web2"), None);
}
