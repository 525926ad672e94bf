//! The display of an inspection, for people.

use super::access::AccessPath;
use super::layers::LayerPath;
use super::{Inspection, namespaces::Namespace};
use crate::diagnose::ps::{place, version};
use crate::plan::return_probe::ReturnProbe;
use crate::rootfs::access_paths::SameFile;
use crate::terminal::Colour;
use crate::terminal::table::{Cell, Table, Tone};

const INDENT: &str = "  ";

impl Inspection {
    /// A table for each section that is not empty.
    pub(in crate::diagnose) fn text(&self, colour: Colour) -> String {
        let sections = [
            (self.title(), self.identity()),
            ("files".to_owned(), self.access()),
            ("overlay".to_owned(), self.overlay()),
            ("mounts".to_owned(), self.mounts()),
            ("according to its runtime".to_owned(), self.runtime_view()),
            ("namespaces".to_owned(), self.namespaces()),
            ("cgroups".to_owned(), self.cgroups()),
            ("processes".to_owned(), self.processes()),
            ("TLS".to_owned(), self.objects()),
            ("functions".to_owned(), self.functions()),
            ("not traced".to_owned(), self.skipped()),
        ];
        let mut text = String::new();
        for (title, table) in sections {
            if !table.is_empty() {
                text.push_str(&Tone::Strong.paint(&title, colour));
                text.push('\n');
                text.push_str(&table.render(INDENT, colour));
            }
        }
        text
    }

    fn title(&self) -> String {
        let what = if self.container.is_some() { "container" } else { "process of the" };
        format!("{what} {}", crate::terminal::escaped(&place(self.container.as_deref())))
    }

    fn identity(&self) -> Table {
        let mut table = Table::new(&["RUNTIME", "IMAGE", "ID", "FIRST PROCESS"]);
        let container = self.container.as_deref();
        table.row(vec![
            Cell::maybe(container.and_then(|one| Some(one.runtime.as_ref()?.name.as_str()))),
            Cell::maybe(container.and_then(|one| Some(one.image.as_ref()?.name.as_str()))),
            Cell::maybe(container.map(|one| one.id.as_str())),
            Cell::new(&self.init.map(|pid| pid.to_string()).unwrap_or_default()),
        ]);
        table
    }

    fn access(&self) -> Table {
        let mut table = Table::new(&["WAY", "PATH", "WORKS", "FOUND"]);
        for way in &self.access {
            table.row(vec![Cell::new(way.name), Cell::new(&way.path), way.cell(), Cell::new(&way.found)]);
        }
        table
    }

    fn overlay(&self) -> Table {
        let mut table = Table::new(&["PART", "ON THE HOST", "REACHED", "WHY NOT"]);
        let Some(overlay) = &self.overlay else { return table };
        let mut row = |part: &str, place: &LayerPath| {
            let why = Cell::maybe(place.why.as_deref());
            table.row(vec![Cell::new(part), Cell::new(&place.path), place.cell(), why]);
        };
        for (part, place) in [("merged", &overlay.merged), ("upper", &overlay.upper), ("work", &overlay.work)]
        {
            if let Some(place) = place {
                row(part, place);
            }
        }
        for place in &overlay.lower {
            row("lower", place);
        }
        table
    }

    fn mounts(&self) -> Table {
        let mut table = Table::new(&["IN IT", "FILE SYSTEM", "ACCESS", "ON THE HOST", "SAME"]);
        for mount in &self.mounts {
            let same = match (mount.same, &mount.why) {
                (Some(SameFile::Same), _) => yes(),
                (Some(SameFile::Other), _) => {
                    Cell::new("no: another file or directory is there now").toned(Tone::Bad)
                }
                (None, why) => Cell::maybe(why.as_deref()),
            };
            let access = if mount.read_only { "read-only" } else { "writable" };
            table.row(vec![
                Cell::new(&mount.destination),
                Cell::new(&mount.file_system),
                Cell::new(access),
                Cell::maybe(mount.source.as_deref()),
                same,
            ]);
        }
        table
    }

    fn runtime_view(&self) -> Table {
        let mut table = Table::new(&["WHAT", "VALUE", "REACHED", "REMARK"]);
        let Some(view) = &self.runtime else { return table };
        let mut row = |what: &str, value: &str, reached: Cell, remark: &str| {
            table.row(vec![Cell::new(what), Cell::new(value), reached, Cell::new(remark)]);
        };
        row("reported by", &view.runtimes.join(", "), Cell::new(""), "");
        if let Some(init) = view.init {
            let agrees = if self.init == Some(init) { "" } else { "not the process that was inspected" };
            row("first process", &init.to_string(), Cell::new(""), agrees);
        }
        if let Some(driver) = &view.driver {
            row("driver", driver, Cell::new(""), "");
        }
        if let Some(snapshot) = &view.snapshot {
            let key = format!("{} {}", snapshot.snapshotter, snapshot.key);
            row("snapshot", &key, Cell::new(""), &format!("namespace {}", snapshot.namespace));
        }
        if let Some(overlay) = &view.overlay {
            let parts = [("merged", &overlay.merged), ("upper", &overlay.upper), ("work", &overlay.work)];
            let parts = parts.into_iter().filter_map(|(part, place)| Some((part, place.as_ref()?)));
            for (part, place) in parts.chain(overlay.lower.iter().map(|place| ("lower", place))) {
                row(part, &place.path, place.cell(), place.why.as_deref().unwrap_or_default());
            }
        }
        for mount in &view.mounts {
            let name = mount.name.as_deref().unwrap_or(&mount.source);
            let access = if mount.writable { "writable" } else { "read-only" };
            let remark = mount.why.clone().unwrap_or_else(|| format!("{access}, {}", mount.source));
            let reached = mount.same.map_or_else(|| Cell::new(""), same);
            row(&mount.kind, &format!("{name} at {}", mount.destination), reached, &remark);
        }
        table
    }

    fn namespaces(&self) -> Table {
        let mut table = Table::new(&["KIND", "ID", "SHARED WITH"]);
        for one in &self.namespaces {
            let id = one.id.map(|id| id.to_string()).unwrap_or_default();
            table.row(vec![Cell::new(one.kind), Cell::new(&id), Cell::new(&shared(one))]);
        }
        table
    }

    fn cgroups(&self) -> Table {
        let mut table = Table::new(&["VERSION", "CONTROLLERS", "PATH"]);
        for cgroup in &self.cgroups {
            let version = cgroup.version.to_string();
            table.row(vec![Cell::new(&version), Cell::new(&cgroup.controllers), Cell::new(&cgroup.path)]);
        }
        table
    }

    fn processes(&self) -> Table {
        let mut table = Table::new(&["PID", "INNER PID", "UID", "COMM", "EXECUTABLE"]);
        for process in &self.processes {
            let inner: Vec<String> = process.inner_pids.iter().map(u32::to_string).collect();
            table.row(vec![
                Cell::new(&process.pid.to_string()),
                Cell::new(&inner.join(" ")),
                Cell::new(&process.uid.map(|uid| uid.to_string()).unwrap_or_default()),
                Cell::new(&process.comm),
                Cell::maybe(process.executable.as_deref()),
            ]);
        }
        table
    }

    fn objects(&self) -> Table {
        let mut table =
            Table::new(&["LIBRARY", "VERSION", "PIDS", "BUILD ID", "REAL FILE", "PATH", "DEBUG FILE"]);
        for object in &self.objects {
            let pids: Vec<String> = object.pids.iter().map(u32::to_string).collect();
            let deleted = if object.deleted { " (deleted)" } else { "" };
            table.row(vec![
                Cell::new(&object.library.name),
                Cell::new(&version(&object.library)),
                Cell::new(&pids.join(" ")),
                Cell::maybe(object.build_id.as_deref()),
                Cell::new(&object.inode),
                Cell::new(&format!("{}{deleted}", object.library.path)),
                Cell::maybe(object.debug_file.as_deref()),
            ]);
        }
        table
    }

    fn functions(&self) -> Table {
        let mut table =
            Table::new(&["FUNCTION", "ADDRESS", "FILE OFFSET", "PROBED BY", "RETURN BY", "LIBRARY"]);
        for object in &self.objects {
            for symbol in &object.symbols {
                let serves = |hook: &&crate::plan::Hook| {
                    hook.function == symbol.name || hook.public_names.contains(&symbol.name)
                };
                let by = object.hooks.iter().find(serves);
                let returns = by.map(|hook| hook.return_probe).filter(|way| !way.is_none());
                let by = by.map(|hook| format!("{} at {:#x}", hook.function, hook.offset.0));
                table.row(vec![
                    Cell::new(&symbol.name),
                    Cell::new(&format!("{:#x}", symbol.address)),
                    Cell::new(&symbol.offset.map(|offset| format!("{offset:#x}")).unwrap_or_default()),
                    Cell::maybe(by.as_deref()),
                    Cell::maybe(returns.map(ReturnProbe::text)),
                    Cell::new(&object.library.name),
                ]);
            }
        }
        table
    }

    fn skipped(&self) -> Table {
        let mut table = Table::new(&["PID", "WHAT", "WHY"]);
        for skipped in &self.skipped {
            let pid = skipped.pid.map(|pid| pid.to_string()).unwrap_or_default();
            table.row(vec![Cell::new(&pid), Cell::new(&skipped.subject), Cell::new(&skipped.reason)]);
        }
        table
    }
}

fn yes() -> Cell {
    Cell::new("yes").toned(Tone::Good)
}

fn no() -> Cell {
    Cell::new("no").toned(Tone::Bad)
}

impl AccessPath {
    fn cell(&self) -> Cell {
        if self.works { yes() } else { no() }
    }
}

impl LayerPath {
    fn cell(&self) -> Cell {
        if self.works { yes() } else { no() }
    }
}

fn same(same: SameFile) -> Cell {
    match same {
        SameFile::Same => yes(),
        SameFile::Other => no(),
    }
}

fn shared(one: &Namespace) -> String {
    if one.host {
        return "the host".to_owned();
    }
    let containers = one.containers.iter().map(|other| format!("container {}", other.name));
    let processes = one.processes.iter().map(|pid| format!("process {pid}"));
    containers.chain(processes).collect::<Vec<_>>().join(", ")
}
