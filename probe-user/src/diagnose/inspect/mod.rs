//! `ctrace inspect`: shows one container or process from all sides.
//!
//! Owns the questions and their order; each file below answers some of them. Everything is only read or
//! opened, nothing is changed. Files of the target are opened only through [`crate::rootfs`].

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

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The container; null for a process outside of containers.
    #[serde(flatten)]
    container: ContainerField,
    /// The process that was inspected: the first one of the container, or the one that was named.
    init: Option<u32>,
    /// The ways to its files from the host.
    access: Vec<AccessPath>,
    /// The overlay of its root directory, if it is one.
    overlay: Option<OverlayRoot>,
    /// The mounts in its root directory that come from outside.
    mounts: Vec<MountedPath>,
    /// What its runtimes report about it; null if none answers.
    runtime: Option<RuntimeView>,
    /// Its namespaces.
    namespaces: Vec<Namespace>,
    /// Its cgroups in all hierarchies.
    cgroups: Vec<CgroupPath>,
    /// The processes of the container.
    processes: Vec<Member>,
    /// The TLS libraries in them.
    objects: Vec<ObjectFacts>,
    /// What else was inspected, and why it would not be traced.
    skipped: Vec<Skipped>,
}

/// A process of the container.
#[derive(Debug, Serialize)]
struct Member {
    /// The id on the host.
    pid: u32,
    /// The ids in the PID namespaces below the host's, down to its own.
    inner_pids: Vec<u32>,
    /// The name of its main thread.
    comm: String,
    /// The path of its executable, in its root; null if ctrace may not see it.
    executable: Option<String>,
    /// The effective user id on the host.
    uid: Option<u32>,
}

impl Inspection {
    /// Inspects a container or process.
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
                inspection.runtime = runtime_view::query(&id, (pid, &cgroups), sockets).await;
            }
            inspection.namespaces = namespaces::read(pid, &target, &all);
        }
        Ok(inspection)
    }

    /// Remarks for people, besides the tables.
    pub(super) fn remarks(&self) -> Vec<String> {
        let denied = self.access.iter().any(AccessPath::is_denied);
        let more = "some of it could not be read: run ctrace as root (or with CAP_SYS_PTRACE, \
                    CAP_DAC_READ_SEARCH and CAP_CHECKPOINT_RESTORE)";
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
