//! `--list`: which functions match, and where they are.

use std::io::{self, Write};

use crate::output::{self, FormatKind};
use crate::plan::{Hook, ObjectHooks, Plan};
use crate::terminal;

/// Writes one line per function as text, or the plan as JSON lines.
pub(super) fn write(plan: &Plan, kind: FormatKind, out: &mut dyn Write) -> io::Result<()> {
    match kind {
        FormatKind::Text => write_text(plan, out),
        FormatKind::Lines | FormatKind::Binary => output::write_plan(plan, out),
    }
}

fn write_text(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    let mut rows: Vec<(&ObjectHooks, &Hook)> = Vec::new();
    for object in &plan.objects {
        rows.extend(
            object.hooks.iter().filter(|hook| !hook.public_names.is_empty()).map(|hook| (object, hook)),
        );
    }
    let width = rows.iter().map(|(object, _)| object.library.name.chars().count()).max().unwrap_or(0);
    for (object, hook) in rows {
        let (name, function) = (terminal::escaped(&object.library.name), terminal::escaped(&hook.function));
        writeln!(out, "{name:<width$}  {:#010x}  {function}", hook.offset.0)?;
    }
    Ok(())
}
