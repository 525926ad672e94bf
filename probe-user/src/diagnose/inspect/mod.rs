//! `ctrace inspect`: one container or process from all sides.
//!
//! Owns the questions and their order; each file below has the answers to some. Everything is read or opened,
//! nothing changed; no file of the target is opened but through [`crate::rootfs`].

use serde::Serialize;

use super::ContainerField;
use super::subject::{TargetArg, first};
use crate::container::runtime::RuntimeSocket;
use crate::discovery::Discovery;
use crate::plan::Skipped;
use crate::probe::{Probe, SslProbe};
use crate::proc::namespaces::{CgroupPath, cgroups, ids};
use crate::proc::process::Proc;
use crate::scope::{Process, Selector, Target, TargetError};
use crate::timeout::with_timeout;

mod access;
mod layers;
mod namespaces;
mod objects;
mod runtime_view;
mod text;

use access::AccessPath;
use layers::{MountedPath, OverlayRoot};
use namespaces::Namespace;
use objects::ObjectFacts;
use runtime_view::RuntimeView;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The container; null for a process in none.
    #[serde(flatten)]
    container: ContainerField,
    /// The process that was looked through: the container's first, or the one that was given.
    init: Option<u32>,
    /// How its files are reached from the host.
    access: Vec<AccessPath>,
    /// What its root directory is made of, if that is an overlay.
    overlay: Option<OverlayRoot>,
    /// What is mounted in it from outside.
    mounts: Vec<MountedPath>,
    /// What its runtime says of the same; null when none answers.
    runtime: Option<RuntimeView>,
    /// Its namespaces.
    namespaces: Vec<Namespace>,
    /// Its place in the hierarchies of cgroups.
    cgroups: Vec<CgroupPath>,
    /// Its processes.
    processes: Vec<Member>,
    /// The TLS libraries in them.
    objects: Vec<ObjectFacts>,
    /// What else was looked at, and why it would not be traced.
    skipped: Vec<Skipped>,
}

/// A process of it.
#[derive(Debug, Serialize)]
struct Member {
    /// On the host.
    pid: u32,
    /// In the PID namespaces below the host's, its own last.
    inner_pids: Vec<u32>,
    /// Its name.
    comm: String,
    /// Path of its executable, in its root; null when that is not ours to see.
    executable: Option<String>,
    /// Effective user id on the host.
    uid: Option<u32>,
}

impl Inspection {
    /// Looks at it.
    pub(super) async fn of(subject: &TargetArg, sockets: &[RuntimeSocket]) -> Result<Self, TargetError> {
        let proc = Proc::default();
        let selector = subject.selector(&proc, sockets);
        let everything = Selector { all: true, runtime_sockets: sockets.to_vec(), ..Selector::default() };
        let (target, all) = tokio::join!(selector.resolve(), everything.resolve());
        let (target, all) = (target?, all.unwrap_or_default());
        let plan = Discovery::new(Probe::Ssl(SslProbe::default())).plan(&target).await;
        let init = first(&selector, &target.processes, &proc);
        let pid = init.map(|process| process.pid);
        let container = init.and_then(|process| process.container.clone());
        let mut inspection = Self {
            container: ContainerField(container),
            init: pid,
            access: Vec::new(),
            overlay: None,
            mounts: Vec::new(),
            runtime: None,
            namespaces: Vec::new(),
            cgroups: pid.map(cgroups).unwrap_or_default(),
            processes: members(&target, &proc),
            objects: objects::facts(&plan).await,
            skipped: plan.skipped,
        };
        if let Some(pid) = pid {
            inspection.access = access::try_all(pid, &proc).await;
            inspection.overlay = with_timeout(move || layers::overlay(pid)).await.flatten();
            inspection.mounts = with_timeout(move || layers::mounts(pid)).await.unwrap_or_default();
            if let Some(id) = inspection.container.as_ref().map(|container| container.id.clone()) {
                let cgroups = proc.cgroups(pid);
                inspection.runtime = runtime_view::of(&id, (pid, &cgroups), sockets).await;
            }
            inspection.namespaces = namespaces::of(pid, &target, &all);
        }
        Ok(inspection)
    }

    /// What a person should know beside it.
    pub(super) fn remarks(&self) -> Vec<String> {
        let denied = self.access.iter().any(AccessPath::is_denied);
        let more =
            "some of it is not ours to see: run ctrace as root (or with CAP_SYS_PTRACE and CAP_SYS_ADMIN)";
        if denied { vec![more.to_owned()] } else { Vec::new() }
    }
}

fn members(target: &Target, proc: &Proc) -> Vec<Member> {
    let member = |process: &Process| {
        let ids = ids(process.pid);
        Member {
            pid: process.pid,
            inner_pids: ids.pids.into_iter().skip(1).collect(),
            comm: process.comm.clone(),
            executable: proc.executable(process.pid).map(|path| path.to_string_lossy().into_owned()),
            uid: ids.uid,
        }
    };
    target.processes.iter().map(member).collect()
}
