//! The options of the commands that attach to functions.

use clap::{Args, ValueEnum};

use crate::bpf::ProbeLink;

/// How to attach.
#[derive(Args, Debug)]
pub(super) struct AttachArgs {
    /// Attach with one link for all places of a file (multi, Linux 6.6), or with one for each place (perf);
    /// auto: multi, if the kernel has it
    #[arg(long, help_heading = "What to attach to", value_name = "KIND", value_enum, default_value = "auto")]
    probe_link: LinkKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LinkKind {
    Auto,
    Perf,
    Multi,
}

impl AttachArgs {
    pub(super) fn link(&self) -> ProbeLink {
        match self.probe_link {
            LinkKind::Auto => ProbeLink::Auto,
            LinkKind::Perf => ProbeLink::Perf,
            LinkKind::Multi => ProbeLink::Multi,
        }
    }
}
