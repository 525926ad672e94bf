//! `ctrace doctor`: would tracing work on this machine and for this container, and if not, why not?
//!
//! Owns the order of the checks and the verdict. To be sure, it really loads the BPF programs and attaches
//! probes, and removes them again. It writes no files and changes no process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::DiagnoseError;
use super::ps::place;
use super::subject::TargetArg;
use crate::bpf::{Session, features};
use crate::container::runtime::RuntimeSocket;
use crate::discovery::Discovery;
use crate::error_chain;
use crate::event::Container;
use crate::plan::{ObjectHooks, Plan};
use crate::probe::{Probe, SslProbe};
use crate::proc::process::Proc;
use crate::scope::Target;

mod attach_steps;
mod check;
mod kernel;
mod permissions;
mod runtimes;
mod self_test;
mod text;
mod watch;

pub use check::{Check, CheckStatus};
use watch::Watched;

/// The results of all checks.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Whether tracing would work.
    traceable: bool,
    /// The checks of the machine and of ctrace's permissions.
    machine: Vec<Check>,
    /// The container or process that was checked, if one was named.
    subject: Option<String>,
    /// The checks of each of its processes.
    processes: Vec<ProcessDiagnosis>,
    /// The hits that were counted, if that was requested.
    watch: Option<Watched>,
    /// The outcome of the checks.
    #[serde(skip)]
    verdict: Verdict,
}

/// The outcome, which decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Tracing would work.
    Works,
    /// Tracing would not work on this machine, or not with these permissions.
    Machine,
    /// There is nothing in the container to attach to.
    Nothing,
}

/// The checks of a process.
#[derive(Debug, Serialize)]
struct ProcessDiagnosis {
    pid: u32,
    comm: String,
    container: Option<Arc<Container>>,
    /// Whether a trace would see its TLS calls.
    traceable: bool,
    /// The steps from its mappings to its probes. They end with the first one that failed.
    steps: Vec<Check>,
}

impl Diagnosis {
    /// Checks the machine, then the subject, and counts hits for a time if that was requested.
    pub(super) async fn of(
        subject: Option<&TargetArg>,
        watch: Option<Duration>,
        sockets: &[RuntimeSocket],
    ) -> Result<Self, DiagnoseError> {
        let tracefs = features::tracefs();
        let mut machine = kernel::checks(tracefs);
        let rights = permissions::checks();
        // This must be done before any thread is started, because it may have to change the mount namespace.
        match self_test::prepared() {
            None => {
                machine.extend(kernel::privileged_checks());
                machine.extend(rights);
                machine.extend(self_test::checks());
            }
            Some(missing) => {
                machine.extend(rights);
                machine.push(missing);
            }
        }
        machine.extend(runtimes::checks(sockets).await);
        let usable = machine.iter().all(|check| check.status != CheckStatus::No);
        let verdict = if usable { Verdict::Works } else { Verdict::Machine };
        let mut diagnosis = Self {
            traceable: usable,
            machine,
            subject: subject.map(|subject| subject.0.clone()),
            processes: Vec::new(),
            watch: None,
            verdict,
        };
        if let Some(subject) = subject {
            diagnosis.examine(subject, watch, sockets).await?;
        }
        diagnosis.traceable = diagnosis.verdict == Verdict::Works;
        Ok(diagnosis)
    }

    async fn examine(
        &mut self,
        subject: &TargetArg,
        duration: Option<Duration>,
        sockets: &[RuntimeSocket],
    ) -> Result<(), DiagnoseError> {
        let proc = Proc::default();
        let target = subject.selector(&proc, sockets).resolve().await?;
        let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
        let (plan, outcomes) = discovery.plan_with_outcomes(&target).await;
        let mut attached = None;
        if self.verdict == Verdict::Works && !plan.objects.is_empty() {
            attached = Some(Attached::to(&target, &plan));
        }
        // The outcomes are in the order of the processes, one for each.
        for (process, outcome) in target.processes.iter().zip(&outcomes) {
            let mut steps = attach_steps::steps(outcome);
            steps.extend(attached.as_ref().and_then(|attached| attached.step(process.pid, &plan)));
            let traceable = attached.as_ref().is_some_and(|attached| attached.is_covered(process.pid, &plan));
            // Leave out a process that exited meanwhile.
            if traceable || proc.is_alive(process.pid, process.start_time) {
                let (pid, comm) = (process.pid, process.comm.clone());
                self.processes.push(ProcessDiagnosis {
                    pid,
                    comm,
                    container: process.container.clone(),
                    traceable,
                    steps,
                });
            }
        }
        if self.verdict == Verdict::Works && !self.processes.iter().any(|patient| patient.traceable) {
            self.verdict = Verdict::Nothing;
        }
        if let (Some(duration), Some(Ok(session))) = (duration, attached.map(|attached| attached.session)) {
            let comm = |pid| proc.process(pid).map(|process| process.comm);
            let mut session = session;
            self.watch = Some(watch::watch(&mut session, &plan.objects, duration, comm).await);
        }
        Ok(())
    }

    /// The error that belongs to the exit status.
    pub(super) fn verdict(&self) -> Result<(), DiagnoseError> {
        let bad: Vec<&str> = self
            .machine
            .iter()
            .filter(|check| check.status == CheckStatus::No)
            .map(|check| check.name)
            .collect();
        match self.verdict {
            Verdict::Works => Ok(()),
            Verdict::Machine => Err(DiagnoseError::Machine { checks: bad.join(", ") }),
            Verdict::Nothing => Err(DiagnoseError::Nothing {
                subject: self.subject.clone().unwrap_or_default(),
                processes: self.processes.len(),
            }),
        }
    }
}

/// A session with the probes of the subject.
struct Attached {
    session: Result<Session, String>,
    /// The errors of the hooks that could not be attached, by the object's index in the plan.
    failed: BTreeMap<usize, Vec<String>>,
}

impl Attached {
    fn to(target: &Target, plan: &Plan) -> Self {
        let mut failed = BTreeMap::new();
        let mut session = match self_test::session(&target.scope) {
            Ok(session) => session,
            Err(error) => return Self { session: Err(error_chain::in_one_line(&error)), failed },
        };
        for (index, object) in plan.objects.iter().enumerate() {
            let errors = session.attach(object);
            failed.insert(index, errors.iter().map(|(_, error)| error_chain::in_one_line(error)).collect());
        }
        Self { session: Ok(session), failed }
    }

    fn objects<'a>(&self, pid: u32, plan: &'a Plan) -> Vec<(&'a ObjectHooks, &[String])> {
        let maps = plan.objects.iter().enumerate().filter(|(_, object)| object.pids.contains(&pid));
        maps.map(|(index, object)| (object, self.failed.get(&index).map_or(&[][..], Vec::as_slice))).collect()
    }

    /// Whether any probe covers the process.
    fn is_covered(&self, pid: u32, plan: &Plan) -> bool {
        let any = self.objects(pid, plan).iter().any(|(object, failed)| failed.len() < object.hooks.len());
        self.session.is_ok() && any
    }

    fn step(&self, pid: u32, plan: &Plan) -> Option<Check> {
        const NAME: &str = "probes set";
        let objects = self.objects(pid, plan);
        if objects.is_empty() {
            return None;
        }
        if let Err(why) = &self.session {
            let next = "if a limit is the reason, select fewer processes, or use --pid; otherwise report it";
            return Some(Check::no(NAME, why.as_str(), next));
        }
        let all: usize = objects.iter().map(|(object, _)| object.hooks.len()).sum();
        let failed: Vec<&str> =
            objects.iter().flat_map(|(_, failed)| failed.iter().map(String::as_str)).collect();
        let found = format!("{} of {all}", all - failed.len().min(all));
        let next = "some file systems (some FUSE ones) do not allow probes; if this is another one, report \
                    it";
        Some(match failed.len() {
            0 => Check::ok(NAME, format!("{found}, and removed again")),
            count if count >= all => Check::no(NAME, format!("{found}; {}", failed.join("; ")), next),
            _ => Check::warn(NAME, format!("{found}; {}", failed.join("; ")), next),
        })
    }
}

impl ProcessDiagnosis {
    /// The title: `web tls-server[12]`.
    fn title(&self) -> String {
        format!("{} {}[{}]", place(self.container.as_deref()), self.comm, self.pid)
    }
}
