//! A directory that looks like /proc.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// The thirty fields after the start time in a stat file.
pub(crate) const REST: &str = " 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

/// The pid of ctrace in a [`ProcTree`].
pub(crate) const OWN: u32 = 900;

pub(crate) struct ProcTree {
    directory: tempfile::TempDir,
}

/// A process of a [`ProcTree`].
pub(crate) struct Fake<'a> {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) comm: &'a [u8],
    pub(crate) nspid: &'a str,
    pub(crate) cgroup: &'a str,
    pub(crate) state: &'a str,
    /// Processes with the same name here share a PID namespace.
    pub(crate) namespace: &'a str,
    /// The effective user id.
    pub(crate) uid: u32,
    /// The target of its `exe` link. Empty for none.
    pub(crate) executable: &'a str,
}

impl Default for Fake<'_> {
    fn default() -> Self {
        Self {
            pid: 0,
            parent: 1,
            comm: b"x",
            nspid: "",
            cgroup: "/",
            state: "S",
            namespace: "host",
            uid: 0,
            executable: "",
        }
    }
}

impl ProcTree {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn proc(&self) -> Proc {
        Proc::new(self.directory.path(), OWN)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn add(&self, fake: &Fake<'_>) {
        let Fake { pid, parent, comm, nspid, cgroup, state, namespace, uid, executable } = fake;
        let directory = self.directory.path().join(pid.to_string());
        fs::create_dir_all(directory.join("ns")).unwrap();
        let start = 100 + pid;
        let tail = format!(") {state} {parent} 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 {start}{REST}");
        let line = [pid.to_string().as_bytes(), b" (", comm, tail.as_bytes()].concat();
        fs::write(directory.join("stat"), line).unwrap();
        fs::write(directory.join("comm"), [comm, b"\n".as_slice()].concat()).unwrap();
        let ids = if nspid.is_empty() { pid.to_string() } else { format!("{pid}\t{nspid}") };
        let status = format!("Name:\tx\nTgid:\t{pid}\nUid:\t7\t{uid}\t8\t9\nNSpid:\t{ids}\n");
        fs::write(directory.join("status"), status).unwrap();
        if !executable.is_empty() {
            std::os::unix::fs::symlink(executable, directory.join("exe")).unwrap();
        }
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        let shared = self.directory.path().join(format!("namespace-{namespace}"));
        fs::write(&shared, "").unwrap();
        fs::hard_link(shared, directory.join("ns/pid")).unwrap();
    }

    pub(crate) fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.directory.path().join(pid.to_string())).unwrap();
    }
}
