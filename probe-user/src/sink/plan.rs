//! The plan as JSON, for `--dry-run`.

use std::io;

use crate::plan::Plan;

/// Writes the plan, indented for a person.
pub fn write_plan(plan: &Plan, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, plan)?;
    out.write_all(b"\n")
}
