//! Hook → links: which BPF programs go where.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::programs::ProgramError;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};

use super::links::Link;
use super::programs::{self, AttachPoint, BpfProgram};
use super::{AttachWarmup, Session, SessionError, loader, usdt_semaphore};
use crate::elf::FileOffset;
use crate::plan::{Hook, ObjectHooks, ObjectId};

impl Session {
    /// Attaches the hooks of an object; the links last until [`Session::detach`] or the end of the session.
    ///
    /// Returns the hooks that could not be attached, by their index, with the reason. The first hook waits
    /// for the kernel (8 ms, more on a busy machine); those right after it, of this object and of others, do
    /// not.
    pub fn attach(&mut self, object: &ObjectHooks) -> Vec<(usize, SessionError)> {
        self.attach_telling(object, |_| ())
    }

    /// The same; `progress` is told the index of each hook that was tried.
    pub fn attach_telling(
        &mut self,
        object: &ObjectHooks,
        mut progress: impl FnMut(usize),
    ) -> Vec<(usize, SessionError)> {
        self.links.attaching();
        let mut failed = Vec::new();
        for (index, hook) in object.hooks.iter().enumerate() {
            let site = object.sites.start.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
            if let Err(error) = self.attach_hook(object, hook, site) {
                failed.push((index, error));
            }
            progress(index);
        }
        self.links.attaching();
        failed
    }

    /// Begins the wait of [`Session::attach`] for something that may have to be attached soon; from any
    /// thread.
    pub fn ahead(&self) -> AttachWarmup {
        self.links.ahead()
    }

    fn attach_hook(&mut self, object: &ObjectHooks, hook: &Hook, site: u32) -> Result<(), SessionError> {
        let arguments = match &hook.capture {
            Some(reading) => self.functions.number(&reading.spec)?,
            None => hook.cookie_args,
        };
        let cookie = probe_common::cookie(site, arguments);
        let mut links: Vec<Link> = Vec::new();
        for program in programs::of_hook(hook.program) {
            let offsets = match program.attach_point {
                AttachPoint::RetInstructions(_) => hook.ret_offsets.as_slice(),
                _ => std::slice::from_ref(&hook.offset),
            };
            for offset in offsets {
                match attach_uprobe(&mut self.ebpf, program, cookie, object, (hook, *offset)) {
                    Ok(link) => links.push(link),
                    Err(error) => {
                        // Half a hook sees nothing, and costs the target all the same.
                        self.links.discard(links);
                        return Err(error);
                    }
                }
            }
        }
        self.links.keep(object.id, links);
        Ok(())
    }

    /// Detaches the hooks of an object: not at once, but when nothing is attached for a moment; it holds up
    /// nobody.
    pub fn detach(&mut self, object: ObjectId) {
        self.links.remove(object);
    }
}

/// Attaches a program to the place of a hook.
fn attach_uprobe(
    ebpf: &mut Ebpf,
    program: &BpfProgram,
    cookie: u64,
    object: &ObjectHooks,
    (hook, offset): (&Hook, FileOffset),
) -> Result<Link, SessionError> {
    let program = loader::uprobe(ebpf, program.name)?;
    let failed = |source| SessionError::attach(&object.library.path, &hook.function, offset, source);
    if let Some(counter) = hook.semaphore {
        let fd = program.fd().map_err(failed)?.as_fd();
        let attached = usdt_semaphore::attach(fd, &object.file.path(), offset, counter, cookie);
        return attached
            .map(|link| Box::new(link) as Link)
            .map_err(|error| failed(ProgramError::IOError(error)));
    }
    let point =
        UProbeAttachPoint { location: UProbeAttachLocation::AbsoluteOffset(offset.0), cookie: Some(cookie) };
    let attached = program.attach(point, object.file.path(), UProbeScope::AllProcesses);
    attached.and_then(|id| program.take_link(id)).map(|link| Box::new(link) as Link).map_err(failed)
}
