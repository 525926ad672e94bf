//! Paths from real machines, and paths that hostile processes may create.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::test_rng::TestRng;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn fill(text: &str) -> String {
    text.replace("{A}", A).replace("{B}", B)
}

fn of(path: &str) -> ProcCgroups {
    ProcCgroups::parse(format!("0::{}\n", fill(path)).as_bytes())
}

/// The path; the id of the container; its runtime if the path shows it; the path of the container's own
/// cgroup.
type Row = (&'static str, Option<&'static str>, Option<&'static str>, &'static str);

const ROWS: &[Row] = &[
    // Docker: cgroupfs, systemd, a parent of the user's choice, rootless, and a cgroup that the container
    // created.
    ("/docker/{A}", Some(A), None, "/docker/{A}"),
    ("/docker/{A}/nested/deep", Some(A), None, "/docker/{A}"),
    ("/system.slice/docker-{A}.scope", Some(A), None, "/system.slice/docker-{A}.scope"),
    ("/system.slice/docker-{A}.scope/init.scope", Some(A), None, "/system.slice/docker-{A}.scope"),
    ("/custom/{A}", Some(A), None, "/custom/{A}"),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
        Some(A),
        None,
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
    ),
    // Podman: cgroupfs, systemd, a pod of both, rootless, --cgroups=split of a unit, the monitor.
    ("/libpod_parent/libpod-{A}", Some(A), None, "/libpod_parent/libpod-{A}"),
    ("/libpod_parent/{B}/libpod-{A}", Some(A), None, "/libpod_parent/{B}/libpod-{A}"),
    ("/libpod_parent/conmon", None, None, ""),
    ("/libpod_parent/libpod-conmon-{A}", None, None, ""),
    ("/machine.slice/libpod-{A}.scope", Some(A), None, "/machine.slice/libpod-{A}.scope"),
    ("/machine.slice/libpod-{A}.scope/container", Some(A), None, "/machine.slice/libpod-{A}.scope"),
    ("/machine.slice/libpod-conmon-{A}.scope", None, None, ""),
    (
        "/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        Some(A),
        None,
        "/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
        Some(A),
        None,
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope",
        Some(A),
        None,
        "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope",
    ),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{A}.scope", None, None, ""),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/podman.service", None, None, ""),
    (
        "/system.slice/web.service/libpod-payload-{A}",
        Some(A),
        None,
        "/system.slice/web.service/libpod-payload-{A}",
    ),
    ("/system.slice/web.service/runtime", None, None, ""),
    // containerd: nerdctl with both drivers, ctr by id.
    ("/k8s.io/{A}", Some(A), None, "/k8s.io/{A}"),
    ("/default/{A}", Some(A), None, "/default/{A}"),
    ("/system.slice/nerdctl-{A}.scope", Some(A), None, "/system.slice/nerdctl-{A}.scope"),
    ("/default/web", None, None, ""),
    ("/system.slice/containerd.service", None, None, ""),
    // Kubernetes: containerd and CRI-O, both drivers, all classes of service; the kubelet's systemd name in
    // v1.
    ("/kubepods/podf7a1/{A}", Some(A), None, "/kubepods/podf7a1/{A}"),
    ("/kubepods/besteffort/podf7a1/{A}", Some(A), None, "/kubepods/besteffort/podf7a1/{A}"),
    ("/kubepods/burstable/podf7a1", None, None, ""),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podf7a1_2.slice/cri-containerd-{A}.scope",
        Some(A),
        None,
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podf7a1_2.slice/cri-containerd-{A}.scope",
    ),
    (
        "/kubepods.slice/kubepods-pod1.slice/crio-{A}.scope/init",
        Some(A),
        None,
        "/kubepods.slice/kubepods-pod1.slice/crio-{A}.scope",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-{A}.scope/container",
        Some(A),
        None,
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-{A}.scope",
    ),
    ("/kubepods.slice/kubepods-pod1.slice/crio-conmon-{A}.scope", None, None, ""),
    ("/kubepods/burstable/podf7a1/crio-{A}", Some(A), None, "/kubepods/burstable/podf7a1/crio-{A}"),
    ("/kubepods/burstable/podf7a1/crio-conmon-{A}", None, None, ""),
    (
        "/kubepods.slice/kubepods-pod1.slice/docker-{A}.scope",
        Some(A),
        None,
        "/kubepods.slice/kubepods-pod1.slice/docker-{A}.scope",
    ),
    (
        "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{A}",
        Some(A),
        None,
        "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{A}",
    ),
    ("/ecs/1f2e/{A}", Some(A), None, "/ecs/1f2e/{A}"),
    // Nested: the outer one is the container.
    ("/docker/{B}/docker/{A}", Some(B), None, "/docker/{B}"),
    (
        "/docker/{B}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{A}.scope",
        Some(B),
        None,
        "/docker/{B}",
    ),
    ("/docker/{B}/kubepods/besteffort/podf7a1/{A}", Some(B), None, "/docker/{B}"),
    // systemd-nspawn: started by hand, by its unit, the process that watches it; libvirt's machines.
    (
        "/machine.slice/machine-web.scope/payload/system.slice/ssh.service",
        Some("web"),
        Some("systemd-nspawn"),
        "/machine.slice/machine-web.scope",
    ),
    (
        r"/machine.slice/machine-my\x2dweb.scope/payload/init.scope",
        Some("my-web"),
        Some("systemd-nspawn"),
        r"/machine.slice/machine-my\x2dweb.scope",
    ),
    (
        "/machine.slice/machine-web.scope",
        Some("web"),
        Some("systemd-nspawn"),
        "/machine.slice/machine-web.scope",
    ),
    ("/machine.slice/machine-web.scope/supervisor", None, None, ""),
    (
        r"/machine.slice/systemd-nspawn@a\x2db.service/payload/init.scope",
        Some("a-b"),
        Some("systemd-nspawn"),
        r"/machine.slice/systemd-nspawn@a\x2db.service",
    ),
    ("/machine.slice/systemd-nspawn@web.service/supervisor", None, None, ""),
    ("/machine.slice/systemd-nspawn@web.service", None, None, ""),
    (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator", None, None, ""),
    (
        r"/machine.slice/machine-lxc\x2d4711\x2dweb.scope/x",
        Some("web"),
        Some("lxc"),
        r"/machine.slice/machine-lxc\x2d4711\x2dweb.scope",
    ),
    // LXC, LXD, Proxmox; Docker in it.
    ("/lxc.payload.web/system.slice/ssh.service", Some("web"), Some("lxc"), "/lxc.payload.web"),
    ("/lxc.payload/web", Some("web"), Some("lxc"), "/lxc.payload/web"),
    ("/lxc.monitor.web", None, None, ""),
    ("/lxc.monitor/web", None, None, ""),
    ("/lxc/101/ns/init.scope", Some("101"), Some("lxc"), "/lxc/101"),
    ("/lxc.payload.web/docker/{A}", Some("web"), Some("lxc"), "/lxc.payload.web"),
    ("/lxc.payload.", None, None, ""),
    // These are not containers.
    ("/", None, None, ""),
    ("", None, None, ""),
    ("/init.scope", None, None, ""),
    ("/system.slice/ssh.service", None, None, ""),
    ("/system.slice/snap.lxd.daemon.service", None, None, ""),
    ("/system.slice/snap.microk8s.daemon-containerd.service", None, None, ""),
    ("/user.slice/user-1000.slice/session-2.scope", None, None, ""),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-1f2e.scope",
        None,
        None,
        "",
    ),
    ("/docker/{A}0", None, None, ""),
    ("/docker/x{A}", None, None, ""),
    ("/docker/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None, None, ""),
    ("/docker/{A}.slice", None, None, ""),
    // As a process in a cgroup namespace sees the host's paths, and ctrace in one.
    ("/../../{A}", Some(A), None, "/../../{A}"),
];

#[test]
fn paths_of_all_runtimes_and_drivers() {
    for (path, container, runtime, root) in ROWS {
        let root = (!root.is_empty()).then(|| fill(root));
        let unified = of(path);
        assert_eq!((unified.container(), unified.runtime()), (*container, *runtime), "{path}");
        let id = container.unwrap_or(A);
        assert_eq!(unified.unified_root_of(id), root.as_deref().map(str::as_bytes), "{path}");
        assert_eq!(unified.is_in(id), container.is_some(), "{path}");
        // The same in a v1 hierarchy, with v2 not in use.
        let legacy = ProcCgroups::parse(format!("4:pids:{}\n0::/\n", fill(path)).as_bytes());
        assert_eq!((legacy.container(), legacy.runtime()), (*container, *runtime), "{path}");
        assert_eq!(legacy.unified_root_of(id), None, "{path}");
        assert_eq!(ProcCgroups::of_path(fill(path).as_bytes()), unified);
    }
}

fn id(within: Option<&str>, id: &str) -> ContainerKey {
    ContainerKey::Id { within: within.map(fill), id: fill(id) }
}

#[test]
fn nobody_poses_as_another_container() {
    let index: KeyIndex<&str> = [
        (id(None, "{A}"), "a"),
        (id(None, "{B}"), "b"),
        (id(Some("{B}"), "{A}"), "a in b"),
        (id(Some("user@1000.service"), "{B}"), "b of a user"),
        (ContainerKey::Path(b"/default/web".to_vec()), "web"),
    ]
    .into_iter()
    .collect();
    for (path, expected, root) in [
        ("/docker/{A}", "a", "/docker/{A}"),
        // A created a cgroup below its own with the name of B.
        ("/docker/{A}/{B}", "a", "/docker/{A}"),
        ("/docker/{A}/docker/{B}", "a", "/docker/{A}"),
        ("/docker/{A}/docker-{B}.scope/default/web", "a", "/docker/{A}"),
        // A runtime in B reports an A in it. No runtime in A reports anything.
        ("/docker/{B}/docker/{A}", "a in b", "/docker/{B}/docker/{A}"),
        ("/docker/{B}/docker/{A}/{B}", "a in b", "/docker/{B}/docker/{A}"),
        // A user of the machine has a container with the same id as one of the system.
        (
            "/user.slice/user@1000.service/docker-{B}.scope",
            "b of a user",
            "/user.slice/user@1000.service/docker-{B}.scope",
        ),
        // A container that is identified by its path, and a cgroup that it created below.
        ("/default/web", "web", "/default/web"),
        ("/default/web/docker/{B}", "web", "/default/web"),
    ] {
        let found = of(path);
        assert_eq!(index.find(&found), Some(&expected), "{path}");
        let (mark, _) = [
            (id(None, "{A}"), "a"),
            (id(None, "{B}"), "b"),
            (id(Some("{B}"), "{A}"), "a in b"),
            (id(Some("user@1000.service"), "{B}"), "b of a user"),
            (ContainerKey::Path(b"/default/web".to_vec()), "web"),
        ]
        .into_iter()
        .find(|(_, name)| *name == expected)
        .unwrap();
        assert!(found.has(&mark), "{path}");
        assert_eq!(found.unified_root(&mark), Some(fill(root).as_bytes()), "{path}");
    }
    for path in [
        "/user.slice/user@1000.service/docker-{A}.scope",
        "/user.slice/user@1001.service/docker-{B}.scope",
        "/default/web2",
        "/x/default/web",
    ] {
        assert_eq!(index.find(&of(path)), None, "{path}");
        assert!(!of(path).has(&id(None, "{A}")) && !of(path).has(&id(None, "{B}")), "{path}");
    }
    let nested = of("/docker/{B}/docker/{A}");
    assert_eq!(index.holders(&nested), [&"b", &"a in b"]);
    assert!(nested.has(&id(None, "{B}")) && !nested.has(&id(None, "{A}")));
    assert!(nested.is_in(B) && !nested.is_in(A));
    assert_eq!(nested.container_path().as_deref(), Some(&*fill("{B}/{A}")));
    let user = of("/user.slice/user-1000.slice/user@1000.service/app.slice/podman.service");
    assert_eq!(user.container_path().as_deref(), Some("user@1000.service"));
}

#[test]
fn v1_v2_and_both() {
    let hybrid = format!("9:name=systemd:/docker/{A}\n1:cpu,cpuacct:/x:y\n0::/docker/{A} (deleted)\n");
    let found = ProcCgroups::parse(hybrid.as_bytes());
    assert_eq!(found.unified.as_deref(), Some(format!("/docker/{A}").as_bytes()));
    assert_eq!(found.legacy.last().unwrap(), b"/x:y");
    let legacy = ProcCgroups::parse(format!("2:pids:/docker/{A}\n1:cpu:/\n").as_bytes());
    assert_eq!((legacy.unified.as_ref(), legacy.container()), (None, Some(A)));
    assert_eq!(legacy.unified_root_of(A), None);
    // The id is only in a v1 hierarchy, although v2 is mounted.
    let split = ProcCgroups::parse(format!("2:pids:/docker/{A}\n0::/\n").as_bytes());
    assert_eq!((split.container(), split.unified_root_of(A)), (Some(A), None));
    // A path with a container takes precedence over one with only a user.
    let user = format!("2:pids:/docker/{A}\n0::/user.slice/user@1000.service/x\n");
    assert_eq!(ProcCgroups::parse(user.as_bytes()).container_path().as_deref(), Some(A));
    assert_eq!(ProcCgroups::parse(b"nonsense\n0:\n\n"), ProcCgroups::default());
}

#[test]
fn below_goes_by_components() {
    assert!(is_below(b"/a/b", b"/a") && is_below(b"/a", b"/a") && is_below(b"/a", b"/"));
    assert!(!is_below(b"/ab", b"/a") && !is_below(b"/", b"/a"));
}

#[test]
fn a_prefix_of_an_id() {
    assert!(is_id_prefix("0f") && is_id_prefix(A) && is_id(A));
    assert!(!is_id_prefix("") && !is_id_prefix("web") && !is_id_prefix(&format!("{A}0")));
    assert!(!is_id("0f") && !is_id(&A.to_uppercase()));
}

#[test]
fn the_hierarchy_is_found_and_its_directories_are_cgroups() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "40 31 0:37 /part /other rw - cgroup2 x rw\n41 31 0:38 / {} rw - cgroup2 cgroup2 rw",
        directory.path().display()
    );
    let hierarchy = Hierarchy::among(&mountinfo::parse(text.as_bytes())).unwrap();
    fs::create_dir_all(directory.path().join("docker/x")).unwrap();
    let cgroup = hierarchy.cgroup(b"/docker/x").unwrap();
    let inode = fs::metadata(directory.path().join("docker/x")).unwrap().ino();
    assert_eq!(cgroup, Cgroup { id: inode, level: 2, path: "/docker/x".into() });
    assert_eq!(hierarchy.cgroup(b"/").unwrap().level, 0);
    assert_eq!(hierarchy.cgroup(b"/../x"), None);
    assert_eq!(hierarchy.cgroup(b"/absent"), None);
    let events = directory.path().join("docker/x/cgroup.events");
    for (content, expected) in
        [("populated 1\nfrozen 0\n", Some(true)), ("frozen 0\npopulated 0\n", Some(false)), ("", None)]
    {
        fs::write(&events, content).unwrap();
        assert_eq!(hierarchy.is_populated(&cgroup), expected, "{content:?}");
    }
    assert_eq!(hierarchy.is_populated(&Cgroup { id: 0, ..cgroup }), None);
    let legacy = mountinfo::parse(b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu");
    assert_eq!(Hierarchy::among(&legacy), None);
}

#[test]
fn junk_does_not_panic() {
    let mut noise = TestRng(0x5eed_0003);
    for round in 0..20_000 {
        let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"0a:/-.\n(\\xlc@" };
        let found = ProcCgroups::parse(&noise.bytes(alphabet));
        let _ = (found.container_path(), found.unified_root_of(A).map(<[u8]>::len));
    }
}

#[test]
fn the_processes_of_a_cgroup_are_also_those_below_it() {
    let mount = tempfile::tempdir().unwrap();
    let outer = mount.path().join("a.scope");
    fs::create_dir_all(outer.join("nested")).unwrap();
    fs::write(outer.join("cgroup.procs"), "7\n12\n").unwrap();
    let hierarchy = Hierarchy::at(mount.path());
    let cgroup = hierarchy.cgroup(b"/a.scope").unwrap();
    assert_eq!(hierarchy.processes(&cgroup), None, "the nested one cannot be read");
    fs::write(outer.join("nested/cgroup.procs"), "30\n").unwrap();
    assert_eq!(hierarchy.processes(&cgroup), Some(vec![7, 12, 30]));
    let other = Cgroup { id: cgroup.id + 1, ..cgroup };
    assert_eq!(hierarchy.processes(&other), None, "another one has its path");
}
