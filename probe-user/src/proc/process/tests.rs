//! Facts about processes, from fixtures and from this process.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::fixture::{Fake, ProcTree, REST};
use super::*;
use crate::test_rng::TestRng;

#[test]
fn stat_of_any_name() {
    let tail = format!(" S 7 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4242{REST}\n");
    for name in ["(x)", "(a) R 1 (b)", "()", "(\x1b[2J\n) S 1 1)", "(Web Content))"] {
        let stat = parse_stat(format!("12 {name}{tail}").as_bytes()).unwrap();
        assert_eq!((stat.parent, stat.start_time), (7, 4242), "{name}");
        assert!(!stat.is_dead && !stat.is_kernel_thread);
    }
    for (state, flags, threads, is_dead, is_kernel) in [
        ("Z", "4194304", 1, true, false),
        ("Z", "4194304", 3, false, false),
        ("X", "0", 1, true, false),
        ("I", "69238880", 1, false, true),
    ] {
        let text = format!("2 (k) {state} 0 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 5{REST}");
        let stat = parse_stat(text.as_bytes()).unwrap();
        assert_eq!((stat.is_dead, stat.is_kernel_thread), (is_dead, is_kernel), "{text}");
    }
    for text in ["", "12", "12 (x", "12 (x)", "12 (x) S", "12 (x) S 7 1 1 0 -1 0 0 0 0"] {
        assert_eq!(parse_stat(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_tree_of_processes() {
    let tree = ProcTree::new();
    tree.add(&Fake { pid: 1, parent: 0, comm: b"init", ..Fake::default() });
    tree.add(&Fake { pid: 30, parent: 1, comm: b"\xff)\n ", nspid: "1", namespace: "c", ..Fake::default() });
    tree.add(&Fake { pid: 31, parent: 30, nspid: "5", namespace: "c", ..Fake::default() });
    tree.add(&Fake { pid: 32, state: "Z", ..Fake::default() });
    fs::create_dir(tree.path().join("33")).unwrap();
    fs::create_dir(tree.path().join("+34")).unwrap();
    let proc = tree.proc();
    assert_eq!(proc.pids().unwrap(), [1, 30, 31, 32, 33]);
    let entries = proc.entries().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.process.pid).collect::<Vec<_>>(), [1, 30, 31]);
    let process = proc.process(30).unwrap();
    assert_eq!((process.comm.as_str(), process.start_time), ("\u{fffd})\n ", 130));
    assert_eq!((proc.vpid(31), proc.vpid(1), proc.vpid(99)), (Some(5), Some(1), None));
    assert!(proc.is_namespace_init(30) && !proc.is_namespace_init(31));
    assert!(!proc.is_namespace_init(1), "the host's own init is the init of no container");
    assert_eq!(proc.pid_namespace(30), proc.pid_namespace(31));
    assert_ne!(proc.pid_namespace(30), proc.pid_namespace(1));
    assert_eq!(children(&entries).get(&30), Some(&vec![31]));
    assert_eq!(proc.children().unwrap(), children(&entries));
    assert!(proc.is_alive(process.pid, process.start_time));
    assert!(!proc.is_alive(process.pid, 131), "the pid was used again");
    tree.remove(30);
    assert!(!proc.is_alive(process.pid, process.start_time) && proc.process(30).is_none());
}

#[test]
fn an_executable_loses_its_mark_once() {
    for (link, expected) in [
        ("/usr/bin/x", "/usr/bin/x"),
        ("/usr/bin/x (deleted)", "/usr/bin/x"),
        ("/x (deleted) (deleted)", "/x (deleted)"),
        ("/x(deleted)", "/x(deleted)"),
    ] {
        let tree = ProcTree::new();
        tree.add(&Fake { pid: 5, ..Fake::default() });
        assert_eq!(tree.proc().executable(5), None);
        std::os::unix::fs::symlink(link, tree.path().join("5/exe")).unwrap();
        assert_eq!(tree.proc().executable(5), Some(PathBuf::from(expected)));
    }
}

#[test]
fn this_process() {
    let proc = Proc::default();
    let pid = std::process::id();
    assert_eq!(proc.parent(pid), Some(std::os::unix::process::parent_id()));
    assert_eq!(proc.executable(pid), Some(std::env::current_exe().unwrap()));
    assert!(proc.threads(pid).contains(&pid));
    assert!(proc.living_threads(pid).contains(&pid));
    assert_eq!(proc.thread_group(pid), Some(pid));
    let namespace = proc.pid_namespace(pid).unwrap();
    assert_eq!(namespace.inode, fs::metadata("/proc/self/ns/pid").unwrap().ino());
    assert!(proc.entries().unwrap().iter().all(|entry| entry.process.pid != pid));
    assert!(proc.entry(pid).is_some());
    assert_eq!(proc.effective_uid(pid), Some(rustix::process::geteuid().as_raw()));
}

#[test]
fn a_thread_that_ends_is_not_living() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    // It has exited but is not reaped, so its thread is still listed.
    rustix::process::waitid(
        rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    )
    .unwrap();
    let proc = Proc::default();
    assert_eq!(proc.threads(child.id()), [child.id()]);
    assert_eq!(proc.living_threads(child.id()), Vec::<u32>::new());
    child.wait().unwrap();
}

#[test]
fn the_effective_user_is_the_second() {
    let tree = ProcTree::new();
    tree.add(&Fake { pid: 5, uid: 33, ..Fake::default() });
    assert_eq!((tree.proc().effective_uid(5), tree.proc().effective_uid(6)), (Some(33), None));
    for (line, expected) in [("Uid:\t1", None), ("Uid:\tx\ty", None), ("Uid:  1   2", Some(2)), ("", None)] {
        fs::write(tree.path().join("5/status"), format!("Name:\tUid:\n{line}\n")).unwrap();
        assert_eq!(tree.proc().effective_uid(5), expected, "{line:?}");
    }
}

#[test]
fn junk_does_not_panic() {
    let mut noise = TestRng(0x5eed_0004);
    for round in 0..20_000 {
        let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"0123 ()SZ\n" };
        let _ = parse_stat(&noise.bytes(alphabet));
    }
}

#[test]
fn kernel_tls_is_what_is_current() {
    let check = |text: &str, expected: bool| {
        let tree = ProcTree::new();
        tree.add(&Fake { pid: 5, ..Fake::default() });
        fs::create_dir(tree.path().join("5/net")).unwrap();
        fs::write(tree.path().join("5/net/tls_stat"), text).unwrap();
        assert_eq!(tree.proc().has_kernel_tls(5), expected, "{text}");
    };
    check("TlsCurrTxSw                     \t1\nTlsCurrRxSw                     \t0\n", true);
    check("TlsCurrTxSw                     \t0\nTlsTxSw                         \t7\n", false);
    check("TlsCurrRxDevice\t2\n", true);
    check("TlsCurr\nTlsCurrTxSw\t-1\n", false);
    assert!(!ProcTree::new().proc().has_kernel_tls(5));
}
