//! `ctrace ps`: which processes use TLS, and whether they can be traced.
//!
//! Owns the rows, which are made from the plan of a trace of the same processes, and their display.

use std::collections::{BTreeMap, BTreeSet};

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::ContainerField;
use crate::discovery::Discovery;
use crate::event::{Container, Direction, Executable, Library};
use crate::probe::{Probe, SslProbe};
use crate::proc::process::Proc;
use crate::scope::{Selector, TargetError};
use crate::terminal::Colour;
use crate::terminal::table::{Cell, Table, Tone};

mod rows;

/// How much is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The processes that use TLS.
    Usual,
    /// More columns, and containers that do not use TLS.
    Wide,
}

/// The list of processes.
#[derive(Debug, Serialize)]
pub struct ProcessListing {
    /// One row per process and library, by container, then pid. With [`Detail::Wide`] also one per container
    /// without a library.
    pub processes: Vec<LibraryRow>,
    /// The processes that could not be inspected.
    pub unseen: Vec<Unseen>,
}

/// A process and a TLS library that it maps.
#[derive(Debug, Serialize)]
pub struct LibraryRow {
    /// The container; null on the host.
    #[serde(flatten)]
    pub container: ContainerField,
    /// The process.
    pub process: Identity,
    /// The library; null if the container has none.
    pub library: Option<Library>,
    /// How the library is linked.
    pub linked: Option<Linked>,
    /// Whether a trace would see its calls, in both directions.
    pub traceable: bool,
    /// The directions that a trace would not see, although it sees the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Direction>,
    /// The functions that a trace would see, by name.
    pub functions: Vec<TracedFunction>,
    /// Why it is not traceable, or which part of it is not.
    pub why: Vec<String>,
}

/// The identity of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The id on the host.
    pub pid: u32,
    /// The name of its main thread.
    pub comm: String,
    /// Its executable; null if ctrace may not see it.
    pub executable: Option<Executable>,
}

/// How the code of a library gets into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Linked {
    /// It is a shared object.
    Shared,
    /// It is part of the executable.
    Executable,
}

/// A function that a trace would see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TracedFunction {
    /// The public name.
    pub name: String,
    /// The function that is probed for it.
    pub probed: String,
    /// Whether that is the public function itself, or an internal one that it calls.
    pub place: ProbePlace,
}

/// The function on which a probe is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbePlace {
    /// The public function.
    Public,
    /// An internal function that several public ones call.
    Internal,
}

/// A process that could not be inspected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// The process.
    #[serde(flatten)]
    pub process: Identity,
    /// The reason.
    pub why: String,
}

/// Lists the processes that the selector matches.
pub(super) async fn list(selector: &Selector, extent: Detail) -> Result<ProcessListing, TargetError> {
    let target = selector.resolve().await?;
    let plan = Discovery::new(Probe::Ssl(SslProbe::default())).plan(&target).await;
    let proc = Proc::default();
    let mut listing = ProcessListing::new(&plan, &target, extent, |pid| proc.executable(pid));
    // Leave out a process that exited meanwhile.
    let ended =
        |pid: u32| target.processes.iter().any(|one| one.pid == pid && !proc.is_alive(pid, one.start_time));
    listing.unseen.retain(|unseen| !ended(unseen.process.pid));
    listing.processes.retain(|row| row.traceable || row.library.is_none() || !ended(row.process.pid));
    Ok(listing)
}

impl ProcessListing {
    /// A table for people.
    pub(super) fn text(&self, extent: Detail, colour: Colour) -> String {
        let mut head =
            vec!["RUNTIME", "CONTAINER", "IMAGE", "PID", "COMM", "LIBRARY", "VERSION", "LINKED", "TRACEABLE"];
        if extent == Detail::Wide {
            head.extend(["ID", "PATH", "EXECUTABLE", "FUNCTIONS"]);
        }
        let mut table = Table::new(&head);
        for row in &self.processes {
            table.row(row.cells(extent));
        }
        table.render("", colour)
    }

    /// Remarks for people, besides the table.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.processes.is_empty() {
            remarks.push("no process uses a TLS library that ctrace recognises".to_owned());
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for unseen in &self.unseen {
            // Only the last cause: those before it name the process.
            let cause = unseen.why.rsplit(": ").next().unwrap_or(&unseen.why);
            *reasons.entry(cause).or_default() += 1;
        }
        for (cause, count) in reasons {
            let processes = if count == 1 { "process" } else { "processes" };
            let denied = cause.contains("denied") || cause.contains("permitted");
            let next = match (denied, may_inspect_others()) {
                (true, false) => "; run ctrace as root (or with CAP_SYS_PTRACE) to see them",
                (true, true) => {
                    "; ctrace has the rights: a security module (SELinux, AppArmor, Yama) protects them"
                }
                (false, _) => "",
            };
            remarks.push(format!("{count} {processes} could not be inspected: {cause}{next}"));
        }
        remarks
    }
}

/// The name of a container, or `host`.
pub(super) fn place(container: Option<&Container>) -> String {
    container.map_or_else(|| "host".to_owned(), Container::shown)
}

impl LibraryRow {
    fn cells(&self, extent: Detail) -> Vec<Cell> {
        let container = self.container.as_deref();
        let library = self.library.as_ref();
        let mut cells = vec![
            Cell::maybe(container.and_then(|one| Some(one.runtime.as_ref()?.name.as_str()))),
            Cell::new(&place(container)),
            Cell::maybe(container.and_then(|one| Some(one.image.as_ref()?.name.as_str()))),
            Cell::new(&self.process.pid.to_string()),
            Cell::new(&self.process.comm),
            Cell::maybe(library.map(|library| library.name.as_str())),
            Cell::new(&library.map(version).unwrap_or_default()),
            Cell::maybe(self.linked.map(|linked| match linked {
                Linked::Shared => "shared",
                Linked::Executable => "in executable",
            })),
            self.verdict(),
        ];
        if extent == Detail::Wide {
            cells.push(Cell::maybe(container.map(|one| one.id.as_str())));
            cells.push(Cell::maybe(library.map(|library| library.path.as_str())));
            cells.push(Cell::maybe(
                self.process.executable.as_ref().map(|executable| executable.path.as_str()),
            ));
            let names: Vec<&str> = self.functions.iter().map(|function| function.name.as_str()).collect();
            cells.push(Cell::new(&names.join(" ")));
        }
        cells
    }

    /// The last column: `6 functions, internal`, `no: …`.
    fn verdict(&self) -> Cell {
        let why = self.why.join("; ");
        let half = |what: &str| Cell::new(&format!("only what it {what}: {why}")).toned(Tone::Bad);
        match self.missing.as_slice() {
            [] => {}
            [Direction::Receive, ..] => return half("sends"),
            [Direction::Transmit, ..] => return half("receives"),
        }
        if !self.traceable {
            let tone = if self.library.is_some() { Tone::Bad } else { Tone::Faint };
            return Cell::new(&if self.library.is_some() { format!("no: {why}") } else { why }).toned(tone);
        }
        let places: BTreeSet<ProbePlace> = self.functions.iter().map(|function| function.place).collect();
        let places: Vec<&str> = places
            .iter()
            .map(|place| match place {
                ProbePlace::Public => "public",
                ProbePlace::Internal => "internal",
            })
            .collect();
        let plural = if self.functions.len() == 1 { "function" } else { "functions" };
        Cell::new(&format!("{} {plural}, {}", self.functions.len(), places.join(" and "))).toned(Tone::Good)
    }
}

/// The name and version of a library: `OpenSSL 3.0.17`.
pub(super) fn version(library: &Library) -> String {
    let parts = [library.implementation.as_deref(), library.version.as_deref()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Whether ctrace has the capability to read the mappings of other users' processes.
fn may_inspect_others() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}
