//! `ctrace exec`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Args;

use super::trace::{RenamedArgs, TraceArgs};
use super::{Trace, selection};
use crate::output::{TextStyle, Tree};
use crate::plan::capture::Environment;
use crate::probe::Probe;
use crate::probe::exec::{ExecEvents, ExecProbe};

const EXAMPLES: &str = "\
Examples:
  ctrace exec --container web                      the programs that container web executes, `docker exec` too
  ctrace exec --pid 2543 --tree --existing         a process and its descendants, those that run already first
  ctrace exec --all --exits --failed -o json       everything on the machine, with exits, and what failed
  ctrace exec --container web --env PATH,HOME      with these variables of their environment
  ctrace exec -- make                              what a command executes
  ctrace exec --image ci -o json | jq -r '.process.command_args // empty | @sh'

Standard output contains records only. docs/events.md describes them; `ctrace schema` prints their schema.";

#[derive(Args, Debug)]
#[command(
    after_help = format!("{}\n\n{EXAMPLES}", selection::MEANING),
    override_usage = "ctrace exec [OPTIONS] <WHAT TO TRACE>...\n       ctrace exec [OPTIONS] -- <COMMAND>..."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct ExecArgs {
    #[command(flatten)]
    common: TraceArgs,
    #[command(flatten)]
    renamed: RenamedArgs,
    /// Report programs that are already running as well, parents first
    #[arg(long, help_heading = "What to report")]
    existing: bool,
    /// Report exits of processes: exit status or signal, and how long they ran
    #[arg(long, help_heading = "What to report")]
    exits: bool,
    /// Report failed executions and the reason; this slows every system call of the machine by some
    /// nanoseconds
    #[arg(long, help_heading = "What to report")]
    failed: bool,
    /// Report forks of processes
    #[arg(long, help_heading = "What to report")]
    forks: bool,
    /// Report these environment variables of each program, or `all` of them: they may contain secrets
    #[arg(long, help_heading = "What to report", value_name = "NAME,…|all", value_delimiter = ',')]
    env: Vec<OsString>,
    /// Indent each program below the one that started it (text)
    #[arg(long, help_heading = "Output")]
    tree: bool,
}

impl ExecArgs {
    /// The trace that these options describe.
    pub(super) fn trace(self) -> Trace {
        let Self { common, renamed: _, existing, exits, failed, forks, env, tree } = self;
        let also = [
            (existing, ExecEvents::Existing),
            (exits, ExecEvents::Exits),
            (failed, ExecEvents::Failed),
            (forks, ExecEvents::Forks),
        ];
        let also = also.into_iter().filter_map(|(wanted, also)| wanted.then_some(also)).collect();
        let probe = Probe::Exec(ExecProbe { also, environment: environment(env) });
        let tree = if tree { Tree::Indented } else { Tree::Flat };
        common.trace(probe, TextStyle { tree, ..TextStyle::default() }, 0)
    }
}

fn environment(names: Vec<OsString>) -> Environment {
    let names: Vec<Vec<u8>> =
        names.into_iter().map(OsStringExt::into_vec).filter(|name| !name.is_empty()).collect();
    match names.as_slice() {
        [] => Environment::None,
        [all] if all == b"all" => Environment::All,
        _ => Environment::Named(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let of = |names: &[&str]| environment(names.iter().map(OsString::from).collect());
        assert_eq!(of(&[]), Environment::None);
        assert_eq!(of(&[""]), Environment::None);
        assert_eq!(of(&["all"]), Environment::All);
        assert_eq!(of(&["all", "B"]), Environment::Named(vec![b"all".to_vec(), b"B".to_vec()]));
    }
}
