//! Plan → rows.
//!
//! Pure: all other facts about processes are passed in.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Detail, Identity, LibraryRow, Linked, ProbePlace, ProcessListing, TracedFunction, Unseen, place,
};
use crate::diagnose::ContainerField;
use crate::event::{Container, Direction, Executable, Library};
use crate::plan::{Hook, ObjectHooks, Plan, SkipKind, Skipped};
use crate::scope::{Process, Target};

impl ProcessListing {
    pub(super) fn new(
        plan: &Plan,
        target: &Target,
        extent: Detail,
        executable: impl Fn(u32) -> Option<PathBuf>,
    ) -> Self {
        let maker = Maker {
            processes: target.processes.iter().map(|process| (process.pid, process)).collect(),
            executable: |pid| executable(pid),
        };
        let mut rows: Vec<LibraryRow> =
            plan.objects.iter().flat_map(|object| maker.hooked(object, plan)).collect();
        let mut unseen = Vec::new();
        for skipped in &plan.skipped {
            match skipped.kind {
                SkipKind::Mappings => unseen.extend(maker.unseen(skipped)),
                // If the library is hooked nevertheless, its rows contain this.
                SkipKind::File
                | SkipKind::Untraceable
                | SkipKind::CopiedCode
                | SkipKind::Unseen
                | SkipKind::OneDirection(_)
                | SkipKind::Unmatched(_)
                    if !plan.objects.iter().any(|object| concerns(skipped, object)) =>
                {
                    rows.extend(maker.broken(skipped));
                }
                _ => {}
            }
        }
        if extent == Detail::Wide {
            let more = maker.without_tls(&rows, &unseen, target);
            rows.extend(more);
        }
        let name = |row: &LibraryRow| row.container.as_deref().map(|one| place(Some(one)));
        let library = |row: &LibraryRow| row.library.as_ref().map(|library| library.path.clone());
        // The host comes last.
        rows.sort_by_cached_key(|row| (row.container.is_none(), name(row), row.process.pid, library(row)));
        Self { processes: rows, unseen }
    }
}

struct Maker<'a, F> {
    processes: HashMap<u32, &'a Process>,
    executable: F,
}

impl<F: Fn(u32) -> Option<PathBuf>> Maker<'_, F> {
    fn identity(&self, pid: u32) -> Identity {
        let comm = self.processes.get(&pid).map(|process| process.comm.clone()).unwrap_or_default();
        let path = (self.executable)(pid);
        let executable = path.map(|path| Executable { path: path.to_string_lossy().into_owned() });
        Identity { pid, comm, executable }
    }

    fn container(&self, pid: u32) -> Option<Arc<Container>> {
        self.processes.get(&pid)?.container.clone()
    }

    /// A row for each process that maps the object.
    fn hooked(&self, object: &ObjectHooks, plan: &Plan) -> Vec<LibraryRow> {
        let library = &object.library;
        let (functions, why) = (functions(&object.hooks), notes(object, plan));
        let missing = missing(object, plan);
        let mut rows: Vec<LibraryRow> = object
            .pids
            .iter()
            .map(|pid| LibraryRow {
                container: ContainerField(self.container(*pid)),
                process: self.identity(*pid),
                library: Some(Library::clone(library)),
                linked: None,
                traceable: !functions.is_empty() && missing.is_empty(),
                missing: missing.clone(),
                functions: functions.clone(),
                why: why.clone(),
            })
            .collect();
        // The same file has other names in other containers, so one process that executes it decides for all.
        let is_executed =
            |row: &LibraryRow| row.process.executable.as_ref().is_some_and(|exe| exe.path == library.path);
        let linked = if rows.iter().any(is_executed) { Linked::Executable } else { Linked::Shared };
        for row in &mut rows {
            row.linked = Some(linked);
        }
        rows
    }

    /// The row of a file that may be a TLS library but cannot be used.
    fn broken(&self, skipped: &Skipped) -> Option<LibraryRow> {
        let pid = skipped.pid?;
        let process = self.identity(pid);
        let name = Path::new(&skipped.subject).file_name().map(|name| name.to_string_lossy().into_owned());
        let is_executed = process.executable.as_ref().is_some_and(|exe| exe.path == skipped.subject);
        Some(LibraryRow {
            container: ContainerField(self.container(pid)),
            process,
            library: Some(Library {
                name: name.unwrap_or_default(),
                path: skipped.subject.clone(),
                implementation: None,
                version: None,
            }),
            linked: Some(if is_executed { Linked::Executable } else { Linked::Shared }),
            traceable: false,
            missing: Vec::new(),
            functions: Vec::new(),
            why: vec![skipped.reason.clone()],
        })
    }

    fn unseen(&self, skipped: &Skipped) -> Option<Unseen> {
        Some(Unseen { process: self.identity(skipped.pid?), why: skipped.reason.clone() })
    }

    /// A row for each container in which nothing was found, with its first process.
    fn without_tls(&self, rows: &[LibraryRow], unseen: &[Unseen], target: &Target) -> Vec<LibraryRow> {
        let ids = rows.iter().filter_map(|row| row.container.as_ref().map(|one| one.id.clone()));
        let mut listed: BTreeSet<String> = ids.collect();
        let blind: BTreeSet<u32> = unseen.iter().map(|unseen| unseen.process.pid).collect();
        let mut more = Vec::new();
        for process in &target.processes {
            let Some(container) = &process.container else { continue };
            if blind.contains(&process.pid) || !listed.insert(container.id.clone()) {
                continue;
            }
            more.push(LibraryRow {
                container: ContainerField(Some(Arc::clone(container))),
                process: self.identity(process.pid),
                library: None,
                linked: None,
                traceable: false,
                missing: Vec::new(),
                functions: Vec::new(),
                why: vec!["no TLS library".to_owned()],
            });
        }
        more
    }
}

/// Whether a skipped item is a part of a hooked library.
fn concerns(skipped: &Skipped, object: &ObjectHooks) -> bool {
    skipped.subject == object.library.path && skipped.pid.is_some_and(|pid| object.pids.contains(&pid))
}

/// How the library's functions were found, if it has no symbols, and which of them cannot be probed.
fn notes(object: &ObjectHooks, plan: &Plan) -> Vec<String> {
    let notes = plan.skipped.iter().filter(|skipped| concerns(skipped, object));
    let notes: BTreeSet<&str> = notes.map(|skipped| skipped.reason.as_str()).collect();
    object.evidence.iter().map(String::as_str).chain(notes).map(str::to_owned).collect()
}

/// The directions that are not seen.
fn missing(object: &ObjectHooks, plan: &Plan) -> Vec<Direction> {
    let directions = plan.skipped.iter().filter(|skipped| concerns(skipped, object));
    let directions = directions.filter_map(|skipped| match skipped.kind {
        SkipKind::OneDirection(direction) => Some(direction),
        _ => None,
    });
    let mut missing = Vec::new();
    for direction in directions {
        if !missing.contains(&direction) {
            missing.push(direction);
        }
    }
    missing
}

fn functions(hooks: &[Hook]) -> Vec<TracedFunction> {
    let moving = hooks.iter().filter(|hook| hook.program.moves_bytes());
    let named = moving.flat_map(|hook| {
        hook.public_names.iter().map(|name| TracedFunction {
            name: name.clone(),
            probed: hook.function.clone(),
            place: if hook.public_names.contains(&hook.function) {
                ProbePlace::Public
            } else {
                ProbePlace::Internal
            },
        })
    });
    named.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::discovery::Discovery;
    use crate::elf::FileOffset;
    use crate::plan::return_probe::ReturnProbe;
    use crate::plan::{ObjectId, ProbeProgram};
    use crate::probe::{Probe, SslProbe};
    use crate::rootfs::access_paths;
    use crate::terminal::Colour;

    fn process(pid: u32, container: Option<&str>) -> Process {
        let container = container.map(|id| Arc::new(Container { id: id.to_owned(), ..Container::default() }));
        Process { pid, start_time: 1, comm: format!("p{pid}"), container }
    }

    fn target(processes: Vec<Process>) -> Target {
        let mut target = Target::default();
        target.processes.extend(processes);
        target
    }

    fn hook(function: &str, serves: &[&'static str]) -> Hook {
        Hook {
            program: ProbeProgram::Io,
            function: function.to_owned(),
            public_names: serves.iter().map(|name| (*name).to_owned()).collect(),
            offset: FileOffset(16),
            cookie_args: 0,
            call_sites: Vec::new(),
            return_probe: ReturnProbe::None,
            return_reason: None,
            exits: Vec::new(),
            implementation: None,
            semaphore: None,
            capture: None,
        }
    }

    fn object(path: &str, pids: &[u32], hooks: Vec<Hook>) -> ObjectHooks {
        let name = "libssl.so.3".to_owned();
        let library = Library { name, path: path.to_owned(), implementation: None, version: None };
        ObjectHooks {
            id: ObjectId(0),
            library: Arc::new(library),
            file: Arc::new(access_paths::executable(std::process::id()).unwrap()),
            pids: pids.to_vec(),
            available_to: Vec::new(),
            evidence: Vec::new(),
            sites: 0..0,
            hooks,
        }
    }

    fn skipped(kind: SkipKind, pid: u32, what: &str, why: &str) -> Skipped {
        Skipped { kind, pid: Some(pid), file: None, subject: what.to_owned(), reason: why.to_owned() }
    }

    fn listing(extent: Detail) -> ProcessListing {
        let processes = vec![
            process(1, None),
            process(2, Some("bb")),
            process(3, Some("aa")),
            process(4, Some("cc")),
            process(5, None),
        ];
        let target = target(processes);
        let plan = Plan {
            objects: vec![
                object(
                    "/lib/libssl.so.3",
                    &[2, 3],
                    vec![hook("ssl_read_internal", &["SSL_read", "SSL_read_ex"])],
                ),
                object("/app", &[1], vec![hook("SSL_write", &["SSL_write"])]),
            ],
            skipped: vec![
                skipped(SkipKind::File, 2, "/lib/libssl.so.3", "SSL_peek: why"),
                skipped(SkipKind::Untraceable, 3, "/lib/libother.so", "broken"),
                skipped(SkipKind::Process, 4, "3 mapped files", "nothing"),
                skipped(SkipKind::Mappings, 5, "its mappings", "denied"),
            ],
            ..Plan::default()
        };
        ProcessListing::new(&plan, &target, extent, |pid| (pid == 1).then(|| PathBuf::from("/app")))
    }

    #[test]
    fn rows_are_by_container_then_pid_and_the_host_is_last() {
        let usual = listing(Detail::Usual);
        let rows: Vec<_> =
            usual.processes.iter().map(|row| (row.process.pid, row.traceable, row.linked.unwrap())).collect();
        let (shared, executable) = (Linked::Shared, Linked::Executable);
        assert_eq!(rows, [(3, false, shared), (3, true, shared), (2, true, shared), (1, true, executable)]);
        let hooked = usual.processes.iter().find(|row| row.process.pid == 2).unwrap();
        assert_eq!(hooked.why, ["SSL_peek: why"]);
        assert!(hooked.functions.iter().all(|function| function.place == ProbePlace::Internal));
        assert_eq!(usual.unseen.iter().map(|unseen| unseen.process.pid).collect::<Vec<_>>(), [5]);
        let wide = listing(Detail::Wide);
        let none = wide.processes.iter().find(|row| row.process.pid == 4).unwrap();
        assert_eq!(
            (none.library.is_none(), none.why.as_slice()),
            (true, ["no TLS library".to_owned()].as_slice())
        );
    }

    #[test]
    fn a_library_with_a_missing_direction_is_not_traceable() {
        let why = "OpenSSL: what it receives is not seen: why";
        let plan = Plan {
            objects: vec![object("/lib/libssl.so.3", &[2], vec![hook("SSL_write", &["SSL_write"])])],
            skipped: vec![skipped(SkipKind::OneDirection(Direction::Receive), 2, "/lib/libssl.so.3", why)],
            ..Plan::default()
        };
        let listed = ProcessListing::new(&plan, &target(vec![process(2, None)]), Detail::Usual, |_| None);
        let [row] = listed.processes.as_slice() else { panic!("{listed:?}") };
        assert_eq!((row.traceable, row.missing.as_slice()), (false, [Direction::Receive].as_slice()));
        let text = listed.text(Detail::Usual, Colour::Off);
        assert!(text.contains(&format!("only what it sends: {why}")), "{text}");
    }

    #[test]
    fn a_table_says_how_and_why_not() {
        let text = listing(Detail::Usual).text(Detail::Usual, Colour::Off);
        for part in ["2 functions, internal", "1 function, public", "in executable", "no: broken", "host"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(listing(Detail::Usual).remarks().len(), 1);
    }

    #[test]
    fn what_discovery_reports_is_understood() {
        // A process that does not exist, and this one, which has no TLS.
        let own = std::process::id();
        let target = target(vec![process(own, None), process(u32::MAX, None)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let plan = runtime.block_on(Discovery::new(Probe::Ssl(SslProbe::default())).plan(&target));
        let steps: Vec<_> = plan.skipped.iter().map(|skipped| (skipped.pid, skipped.kind)).collect();
        assert_eq!(steps, [(Some(own), SkipKind::Process), (Some(u32::MAX), SkipKind::Mappings)]);
    }
}
