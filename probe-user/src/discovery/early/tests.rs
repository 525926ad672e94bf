//! Which files are found in directories that look like the root of a container, and what becomes of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode};

use super::super::loader::LoaderCache;
use super::super::object_refs::ObjectRefs;
use super::*;
use crate::probe::{Probe, SslProbe};
use crate::rootfs::Mounts;

/// A directory that stands for a root.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for path in files {
            tree.write(path, b"no code");
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn found(&self, working: Option<&str>) -> Vec<String> {
        let (root, mounts) = (TargetRoot::at(self.0.path()), Mounts::default());
        let (cache, probe) = (LoaderCache::default(), Probe::Ssl(SslProbe::default()));
        let found = search::files(&root, (&mounts, &cache), &probe, working.map(Path::new));
        found.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn libraries_are_found_where_loaders_search() {
    let tree = Tree::new(&[
        "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        "/usr/lib/x86_64-linux-gnu/libz.so.1",
        "/usr/lib/x86_64-linux-gnu/libnspr4.so",
        "/usr/local/lib/libgnutls.so.30",
        "/usr/lib64/glibc-hwcaps/x86-64-v3/libssl.so.3",
        "/srv/lib/libssl.so.3",
    ]);
    let expected = [
        "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        "/usr/lib64/glibc-hwcaps/x86-64-v3/libssl.so.3",
        "/usr/local/lib/libgnutls.so.30",
    ];
    assert_eq!(tree.found(None), expected);
    // Alpine.
    let tree = Tree::new(&["/lib/ld-musl-x86_64.so.1", "/usr/lib/libssl.so.3", "/srv/lib/libmbedtls.so.14"]);
    assert_eq!(tree.found(None), ["/usr/lib/libssl.so.3"]);
    tree.write("/etc/ld-musl-x86_64.path", b"/srv/lib\n");
    assert_eq!(tree.found(None), ["/usr/lib/libssl.so.3", "/srv/lib/libmbedtls.so.14"]);
}

#[test]
fn modules_are_found_in_the_directories_of_packages() {
    let python = "/usr/local/lib/python3.12";
    let tree = Tree::new(&[
        &format!("{python}/site-packages/cryptography/hazmat/bindings/_rust.abi3.so"),
        &format!("{python}/site-packages/psycopg2_binary.libs/libssl-7b0a1a.so.1.1"),
        &format!("{python}/site-packages/numpy/core/_multiarray.so"),
        &format!("{python}/site-packages/a/b/c/d/libssl.so"),
        &format!("{python}/lib-dynload/_ssl.cpython-312-x86_64-linux-gnu.so"),
        &format!("{python}/ssl.py"),
        "/app/node_modules/grpc/build/Release/grpc_node.node",
        "/app/node_modules/@org/curl/prebuilds/linux-x64/curl.node",
        "/app/node_modules/grpc/src/other.node",
    ]);
    let mut found = tree.found(Some("/app"));
    found.sort();
    let expected = [
        "/app/node_modules/@org/curl/prebuilds/linux-x64/curl.node",
        "/app/node_modules/grpc/build/Release/grpc_node.node",
        "/usr/local/lib/python3.12/lib-dynload/_ssl.cpython-312-x86_64-linux-gnu.so",
        "/usr/local/lib/python3.12/site-packages/cryptography/hazmat/bindings/_rust.abi3.so",
        "/usr/local/lib/python3.12/site-packages/psycopg2_binary.libs/libssl-7b0a1a.so.1.1",
    ];
    assert_eq!(found, expected);
    assert!(tree.found(Some("/")).iter().all(|path| !path.starts_with("/app")));
}

#[test]
fn a_hostile_tree_costs_little() {
    let tree = Tree::new(&["/usr/lib/libssl.so.3"]);
    let packages = tree.path("/usr/lib/python3.9/site-packages");
    fs::create_dir_all(&packages).unwrap();
    symlink(".", packages.join("loop")).unwrap();
    symlink("/usr/lib/python3.9", tree.path("/usr/lib/python3.10")).unwrap();
    symlink("/lib/loop", tree.path("/usr/lib/loop")).unwrap();
    symlink("/../../../../../../../../usr/lib", tree.path("/usr/lib64")).unwrap();
    for number in 0..6000 {
        fs::create_dir(packages.join(format!("p{number}"))).unwrap();
    }
    for number in 0..300 {
        fs::write(packages.join(format!("_ssl.{number}.so")), "").unwrap();
    }
    // An open of it would wait for ever.
    let fifo = tree.path("/usr/lib/libssl.so.1");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    tree.write("/etc/ld.so.cache", &b"glibc-ld.so.cache1.1".repeat(1 << 20));
    let begin = Instant::now();
    let found = tree.found(Some("/../.."));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(found.contains(&"/usr/lib/libssl.so.3".to_owned()), "{found:?}");
    assert!(found.len() <= search::MAX_FILES && found.iter().all(|path| !path.contains("loop")), "{found:?}");
    let (root, mounts) = (TargetRoot::at(tree.0.path()), Mounts::default());
    let _ = root.open_resolved(Path::new("/usr/lib/libssl.so.1"), &mounts).unwrap_err();
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// With a root file system in scope: that of this process, which stands for a container's.
fn discovery() -> (Discovery, MountView) {
    let own = std::process::id();
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    let root = MountView::of(own).unwrap();
    assert!(discovery.users.resides(own, root, Instant::now()));
    discovery.early.push(root);
    assert!(discovery.early.waiting.is_empty(), "the root file system of the host is not searched");
    discovery.early.waiting.push_back(root);
    (discovery, root)
}

#[test]
fn a_file_is_hooked_once_whoever_finds_it_first() {
    run(async {
        let own = std::process::id();
        let (mut discovery, root) = discovery();
        let objects = discovery.early_for(Duration::from_mins(1), || false).await;
        assert!(!discovery.start_early(), "everything was inspected");
        // This machine has at least one TLS library: the tests link against it.
        assert!(!objects.is_empty());
        for object in &objects {
            assert_eq!((object.pids.as_slice(), object.available_to.as_slice()), (&[][..], &[own][..]));
        }
        assert_eq!(discovery.due(), None, "they are kept while the root is in scope");
        assert!(discovery.take_blind_spots().is_empty());
        // Another container with the same files.
        discovery.early.waiting.push_back(root);
        assert_eq!(discovery.early_for(Duration::from_mins(1), || false).await.len(), 0);
        discovery.ended(own);
        assert!(discovery.due().is_some());
    });
}

#[test]
fn what_is_not_done_in_time_is_done_later() {
    run(async {
        let (mut discovery, _) = discovery();
        assert_eq!(discovery.early_for(Duration::ZERO, || false).await.len(), 0);
        assert_eq!(discovery.early_for(Duration::from_nanos(1), || false).await.len(), 0);
        assert_eq!(discovery.early_for(Duration::from_mins(1), || true).await.len(), 0);
        let mut objects = Vec::new();
        while discovery.start_early() {
            objects.extend(discovery.early().await);
        }
        assert!(!objects.is_empty());
    });
}

#[test]
fn a_root_that_nobody_has_any_more_is_passed_over() {
    run(async {
        let (mut discovery, root) = discovery();
        discovery.users = ObjectRefs::default();
        assert!(!discovery.start_early());
        // Its process has another root by now.
        let other = MountView::fixture(7);
        assert!(discovery.users.resides(std::process::id(), other, Instant::now()));
        discovery.early.waiting.extend([root, other]);
        assert!(discovery.start_early());
        assert!(discovery.early().await.is_empty() && !discovery.start_early());
    });
}

#[test]
fn roots_without_end_are_limited() {
    let mut queue = EarlyQueue::default();
    for number in 0..3 * MAX_WAITING as u64 {
        queue.push(MountView::fixture(number));
        queue.push(MountView::fixture(number));
    }
    assert_eq!(queue.waiting.len(), MAX_WAITING);
}
