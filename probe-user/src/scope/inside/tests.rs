//! Processes by their ids inside of containers, with fixtures instead of /proc.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use crate::proc::process::fixture::{Fake, ProcTree};
use crate::scope::error::Kind;
use crate::scope::resolve::tests::{container, id, list, listed, pids, resolve_with, tree};
use crate::scope::{InnerPid, Selector, Target, TargetError};

fn resolve(tree: &ProcTree, name: &str, pid: u32) -> Result<Target, TargetError> {
    let name = container(name).containers.names.remove(0);
    let selector = Selector { inner_pids: vec![InnerPid { container: name, pid }], ..Selector::default() };
    resolve_with(tree, None, list(vec![listed('a', "web"), listed('d', "elsewhere")]), &selector)
}

#[test]
fn a_process_by_its_id_in_its_container() {
    let tree = tree();
    let check = |name: &str, pid, expected: &[u32]| {
        let target = resolve(&tree, name, pid).unwrap();
        assert_eq!(pids(&target), expected, "{name}:{pid}");
        assert!(!target.scope.all && target.scope.cgroups.is_empty());
    };
    // The first process of a namespace stands for the whole namespace, as with its id on the host. Process 32
    // does not match: it is the first one of a namespace that was created inside of the container.
    check("web", 1, &[30, 31, 32, 40]);
    check("web", 7, &[31, 32]);
    check("web", 9, &[40]);
    check("aaaa", 7, &[31, 32]);
    check("bbbb", 1, &[50]);
    // For a container in the host's PID namespace, the ids are the host's.
    let cgroup = format!("/docker/{}", id('e'));
    tree.add(&Fake { pid: 80, cgroup: &cgroup, ..Fake::default() });
    check("eeee", 80, &[80]);
}

#[test]
fn an_id_that_only_nested_namespaces_have_must_be_one() {
    let tree = tree();
    let cgroup = format!("/docker/{}", id('a'));
    let add = |pid, namespace| {
        tree.add(&Fake { pid, parent: 31, nspid: "20\t5", namespace, cgroup: &cgroup, ..Fake::default() });
    };
    add(33, "m");
    assert_eq!(pids(&resolve(&tree, "web", 5).unwrap()), [33]);
    add(34, "o");
    let error = resolve(&tree, "web", 5).unwrap_err();
    let text = "2 processes have the id 5 in PID namespaces inside container \"web\": use --pid with one of their ids \
                on the host: 33 and 34";
    assert_eq!((error.to_string().as_str(), error.kind()), (text, Kind::Ambiguous));
}

#[test]
fn an_absent_process_is_reported_with_those_that_exist() {
    let tree = tree();
    let check = |name: &str, pid, kind, text: &str| {
        let error = resolve(&tree, name, pid).err().unwrap();
        assert!(error.to_string().starts_with(text), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    };
    let text = "container \"web\" has no process 6 in its own PID namespace, only 1 (x), 1 (x), 7 (x), 9 (x)";
    check("web", 6, Kind::NotFound, text);
    // The container has no process with this id of the host.
    check("web", 30, Kind::NotFound, "container \"web\" has no process 30");
    check("wbe", 1, Kind::NotFound, "no container has a name or id that starts with \"wbe\"");
    check("elsewhere", 1, Kind::NotFound, "container \"elsewhere\" runs, but none of its processes");
    let many = ProcTree::new();
    let cgroup = format!("/docker/{}", id('a'));
    for pid in 30..40 {
        many.add(&Fake { pid, comm: b"\x1b[2J", cgroup: &cgroup, ..Fake::default() });
    }
    let error = resolve(&many, "web", 1).err().unwrap().to_string();
    assert!(error.contains("30 (\\x1b[2J), 31") && error.contains("5 more"), "{error}");
}
