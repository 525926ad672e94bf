//! Adapters that make the types of `probe-common` usable with aya.

use aya::maps::{Map, MapError};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, Pod};
use perf_event::Sampler;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, IntoBytes};

use super::SessionError;
use super::ring::Ring;

/// Lets a type of `probe-common` be the key or value of a map.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(super) struct PodCompat<T>(pub(super) T);

#[expect(unsafe_code, reason = "aya's marker trait for plain data; zerocopy has proven it of T")]
// SAFETY: T has no padding and any bytes are a T, which the bounds prove; the wrapper is transparent.
unsafe impl<T: IntoBytes + FromBytes + Copy + 'static> Pod for PodCompat<T> {}

/// Takes a map out of the loaded object.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, SessionError> {
    let map = ebpf.take_map(name).ok_or(SessionError::Missing { name })?;
    M::try_from(map).map_err(|source| SessionError::map(name, source))
}

/// Borrows a map that stays in the loaded object.
pub(super) fn map<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<M, SessionError> {
    let map = ebpf.map_mut(name).ok_or(SessionError::Missing { name })?;
    M::try_from(map).map_err(|source| SessionError::map(name, source))
}

/// Borrows a program of the loaded object.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, SessionError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program =
        ebpf.program_mut(name).ok_or_else(|| SessionError::program(name, ProgramError::NotLoaded))?;
    program.try_into().map_err(|source| SessionError::program(name, source))
}

/// Registers a ring of perf records with tokio's reactor.
pub(super) fn poll_records(ring: Sampler) -> Result<AsyncFd<Sampler>, SessionError> {
    #[expect(unsafe_code, reason = "tokio cannot see that a Sampler keeps its file descriptor")]
    // SAFETY: the ring owns its counter's file descriptor, never replaces it, and closes it when dropped.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    ring.map_err(|source| SessionError::poll(source.into()))
}

/// Registers the ring buffer with tokio's reactor.
pub(super) fn poll(ring: Ring) -> Result<AsyncFd<Ring>, SessionError> {
    #[expect(unsafe_code, reason = "tokio cannot see that a Ring keeps its file descriptor")]
    // SAFETY: the ring owns its map's file descriptor, never replaces it, and closes it when dropped.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    ring.map_err(|source| SessionError::poll(source.into()))
}
