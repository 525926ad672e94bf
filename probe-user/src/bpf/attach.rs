//! Hook → links: which BPF programs go where.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::programs::ProgramError;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};

use super::links::Link;
use super::{AttachWarmup, Session, SessionError, loader, usdt_semaphore};
use crate::elf::FileOffset;
use crate::plan::{Hook, ObjectHooks, ObjectId, ProbeProgram};

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
        // The return first: a call that is entered in between is then merely not reported.
        let (leave, names): (&str, &[&str]) = match hook.program {
            ProbeProgram::Io => ("", &["call_return", "call_enter"]),
            ProbeProgram::IoAtRets => ("call_leave", &["call_enter"]),
            ProbeProgram::Open => ("", &["open_return"]),
            ProbeProgram::OpenAtRets => ("open_leave", &[]),
            ProbeProgram::OpenFirst => ("", &["open_enter"]),
            ProbeProgram::OpenOutArg => ("", &["open_behind_return", "call_enter"]),
            ProbeProgram::OpenIfNew => ("", &["open_once_enter"]),
            ProbeProgram::Close => ("", &["close_enter"]),
            ProbeProgram::Handshake => ("", &["handshake_return", "call_enter"]),
            ProbeProgram::MarkTls => ("", &["cipher_enter"]),
            ProbeProgram::IoVec => ("", &["gather_return", "gather_enter"]),
            ProbeProgram::IoVecAtRets => ("gather_leave", &["gather_enter"]),
            ProbeProgram::IoAtEntry => ("", &["whole_enter"]),
            ProbeProgram::CallbackScope => ("", &["outer_enter"]),
            ProbeProgram::CallbackData => ("", &["handed_enter"]),
            ProbeProgram::BorrowBuffer => ("", &["lent_return", "call_enter"]),
            ProbeProgram::UnwrapPacket => ("", &["unpack_return", "call_enter"]),
            ProbeProgram::GoIo => ("go_leave", &["go_enter"]),
            ProbeProgram::GoOpen => ("", &["go_open"]),
            ProbeProgram::GoClose => ("", &["go_close"]),
            ProbeProgram::FunctionAndReturn => ("", &["function_return", "function_enter"]),
            ProbeProgram::Function | ProbeProgram::FunctionAndRets => ("function_leave", &["function_enter"]),
        };
        let arguments = match &hook.capture {
            Some(reading) => self.functions.number(&reading.spec)?,
            None => hook.cookie_args,
        };
        let cookie = probe_common::cookie(site, arguments);
        let mut links: Vec<Link> = Vec::new();
        let ends = hook.ret_offsets.iter().map(|end| (leave, *end));
        for (name, offset) in ends.chain(names.iter().map(|name| (*name, hook.offset))) {
            match attach_uprobe(&mut self.ebpf, name, cookie, object, (hook, offset)) {
                Ok(link) => links.push(link),
                Err(error) => {
                    // Half a hook sees nothing, and costs the target all the same.
                    self.links.discard(links);
                    return Err(error);
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
    name: &str,
    cookie: u64,
    object: &ObjectHooks,
    (hook, offset): (&Hook, FileOffset),
) -> Result<Link, SessionError> {
    let program = loader::uprobe(ebpf, name)?;
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
