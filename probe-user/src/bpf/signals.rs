//! The program that reports signals which a probe may have caused.
//!
//! It is attached only in a session with probes in files. Without it (a kernel without BTF), everything else
//! works, and harm is not noticed.

use aya::Ebpf;

use super::links::Links;
use super::{programs, sockets};
use crate::error_chain;
use crate::plan::program_set::ProgramFamily;

/// Loads and attaches it for as long as the session lasts.
pub(super) fn attach(ebpf: &mut Ebpf, links: &mut Links) {
    let programs: Vec<_> = programs::of(ProgramFamily::Signals).collect();
    if let Err(error) = sockets::attach_all(ebpf, links, &programs) {
        tracing::debug!("processes that probes end are not noticed: {}", error_chain::in_one_line(&error));
    }
}
