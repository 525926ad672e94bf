//! Checks the table against the compiled object file and against the hooks of the plan.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{Object, ProgramSection};

use super::*;
use crate::bpf::loader::OBJECT_FILE;

/// The section that aya, which reads the object file, assigns to a program of the table.
fn section(attach_point: &AttachPoint) -> ProgramSection {
    let sleepable = false;
    match attach_point {
        Uprobe(_) | Exits(_) | Session(_) => ProgramSection::UProbe { sleepable },
        Uretprobe(_) => ProgramSection::URetProbe { sleepable },
        Tracepoint { .. } => ProgramSection::TracePoint,
        RawTracepoint(_) => ProgramSection::RawTracePoint,
        FunctionExit(_) => ProgramSection::FExit { sleepable },
    }
}

#[cfg(not(bpf_missing))]
#[test]
fn the_table_has_the_programs_of_the_object_file() {
    let object = Object::parse(OBJECT_FILE);
    assert!(object.is_ok(), "{:?}", object.err());
    let compiled: BTreeMap<String, String> = object
        .into_iter()
        .flat_map(|object| object.programs)
        .map(|(name, program)| (name, format!("{:?}", program.section)))
        .collect();
    let table: BTreeMap<String, String> = PROGRAMS
        .iter()
        .map(|program| (program.name.to_owned(), format!("{:?}", section(&program.attach_point))))
        .collect();
    assert_eq!(table.len(), PROGRAMS.len(), "a name is in the table twice");
    assert_eq!(table, compiled);
}

#[test]
fn each_hook_has_its_programs() {
    let hooks = |family: ProgramFamily| {
        of(family).flat_map(|program| program.attach_point.hooks()).copied().collect::<BTreeSet<_>>()
    };
    let (tls, functions) = (hooks(Tls), hooks(Functions));
    assert!(tls.is_disjoint(&functions));
    // The last variant has the highest number.
    assert_eq!(tls.len() + functions.len(), GoClose as usize + 1);
    for hook in tls.union(&functions) {
        let programs: Vec<_> = of_hook(*hook).collect();
        let is_entry = |program: &&&BpfProgram| matches!(program.attach_point, Uprobe(_));
        let at_exits = programs.iter().filter(|program| matches!(program.attach_point, Exits(_))).count();
        let by_kernel =
            programs.iter().filter(|program| matches!(program.attach_point, Uretprobe(_))).count();
        let sessions = programs.iter().filter(|program| matches!(program.attach_point, Session(_))).count();
        assert_eq!(at_exits, usize::from(hook.has_return()), "{hook:?}: one program for its exits");
        assert_eq!(by_kernel, usize::from(hook.has_return() && *hook != GoIo), "{hook:?}: its return probe");
        assert_eq!(sessions, by_kernel, "{hook:?}: its return probe, if it may be chosen for each call");
        assert!(programs.iter().filter(is_entry).count() <= 1, "{hook:?} has two programs at one place");
        let entry = programs.iter().position(|program| is_entry(&program));
        assert!(entry.is_none_or(|at| at + 1 == programs.len()), "{hook:?}: the entry is not last");
    }
}
