//! Hook → links: attaches the BPF programs of a hook.

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
    /// Attaches the hooks of an object. The links last until [`Session::detach`] or the end of the session.
    ///
    /// Returns the hooks that could not be attached, by their index, with the reason. The first hook waits
    /// for the kernel (8 ms, more on a busy machine). Hooks that are attached right after it, for this object
    /// and for others, do not wait.
    pub fn attach(&mut self, object: &ObjectHooks) -> Vec<(usize, SessionError)> {
        self.attach_telling(object, |_| ())
    }

    /// Like [`Session::attach`], but also calls `progress` with the index of each hook that was tried.
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

    /// Starts the wait of [`Session::attach`] early, for something that may have to be attached soon. The
    /// result can be used from any thread.
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
                        // A hook without all of its programs reports nothing, but still slows the target
                        // down.
                        self.links.discard(links);
                        return Err(error);
                    }
                }
            }
        }
        self.links.keep(object.id, links);
        Ok(())
    }

    /// Detaches the hooks of an object. This happens later, when nothing has been attached for a moment, and
    /// does not block the caller.
    pub fn detach(&mut self, object: ObjectId) {
        self.links.remove(object);
    }
}

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
