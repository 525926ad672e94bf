//! The programs that find out which socket a connection uses.
//!
//! They need the kernel's BTF for the offsets of socket fields. Without it, connections are reported without
//! addresses, but no data is missing.

use aya::programs::{FExit, Program, ProgramError};
use aya::{Btf, Ebpf};
use probe_common::{NO_FIELD, SocketFields};

use super::links::Links;
use super::programs::{self, AttachPoint, BpfProgram};
use super::{SessionError, btf as kernel_btf, loader, pod};
use crate::error_chain;
use crate::plan::program_set::ProgramFamily;

/// The offsets of the socket fields that are read on this kernel. None if its BTF does not describe them.
pub(super) fn fields(btf: &kernel_btf::Btf) -> Option<SocketFields> {
    let offset = |structure: &str, field: &str| {
        Some(btf.offset(structure, field)).filter(|offset| *offset != NO_FIELD)
    };
    let common = |field| offset("sock_common", field);
    let mut fields = SocketFields {
        sk: offset("socket", "sk")?,
        family: common("skc_family")?,
        local: common("skc_rcv_saddr")?,
        peer: common("skc_daddr")?,
        local6: common("skc_v6_rcv_saddr").unwrap_or_default(),
        peer6: common("skc_v6_daddr").unwrap_or_default(),
        local_port: common("skc_num")?,
        peer_port: common("skc_dport")?,
        protocol: offset("sock", "sk_protocol")?,
        ..SocketFields::default()
    };
    let namespace =
        || Some((common("skc_net")?, offset("net", "ns")?.checked_add(offset("ns_common", "inum")?)?));
    if let Some((of_socket, inode)) = namespace() {
        (fields.namespace, fields.namespace_inode) = (of_socket, inode);
    }
    let unix = || {
        let of_socket = (offset("unix_sock", "addr")?, offset("unix_sock", "peer")?);
        Some((of_socket, offset("unix_address", "len")?, offset("unix_address", "name")?))
    };
    if let Some(((address, peer), length, name)) = unix() {
        (fields.unix_address, fields.unix_peer) = (address, peer);
        (fields.unix_length, fields.unix_name) = (length, name);
    }
    let tcp = |field| offset("tcp_sock", field);
    let transferred = || {
        let read = (tcp("bytes_received")?, tcp("rcv_nxt")?, tcp("copied_seq")?);
        Some((read, (tcp("bytes_acked")?, tcp("snd_una")?, tcp("write_seq")?)))
    };
    if let Some((read, written)) = transferred() {
        (fields.tcp_received, fields.tcp_received_next, fields.tcp_read_next) = read;
        (fields.tcp_acked, fields.tcp_unacked, fields.tcp_written_next) = written;
    }
    fields.socket_type = offset("sock", "sk_type").unwrap_or_default();
    let inode = || offset("socket_alloc", "vfs_inode")?.checked_add(offset("inode", "i_ino")?);
    if let (Some(socket), Some(inode)) = (offset("sock", "sk_socket"), inode()) {
        (fields.socket, fields.socket_inode) = (socket, inode);
    }
    Some(fields)
}

/// Loads and attaches the programs of these families for as long as the session lasts: to tracepoints, or to
/// functions on a kernel that lacks these tracepoints.
pub(super) fn attach(ebpf: &mut Ebpf, links: &mut Links, families: &[ProgramFamily]) {
    let is_tracepoint = |program: &&BpfProgram| matches!(program.attach_point, AttachPoint::RawTracepoint(_));
    let all = families.iter().flat_map(|family| programs::of(*family));
    let (tracepoints, mut functions): (Vec<_>, Vec<_>) = all.partition(is_tracepoint);
    let Err(error) = attach_all(ebpf, links, &tracepoints) else { return };
    tracing::debug!("this kernel has no tracepoints of sockets: {}", error_chain::in_one_line(&error));
    // The last one that was attached to a function runs first.
    functions.reverse();
    if let Err(error) = attach_all(ebpf, links, &functions) {
        tracing::debug!("connections have no addresses: {}", error_chain::in_one_line(&error));
    }
}

/// Loads and attaches the program that reports closed sockets. Without it, the close of a connection is
/// recognized in other ways, and later.
pub(super) fn attach_closes(ebpf: &mut Ebpf, links: &mut Links) {
    let programs: Vec<_> = programs::of(ProgramFamily::SocketCloses).collect();
    if let Err(error) = attach_all(ebpf, links, &programs) {
        tracing::warn!("closed sockets are not noticed: {}", error_chain::in_one_line(&error));
    }
}

/// Attaches the programs in order, up to the first that this kernel refuses.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    links: &mut Links,
    programs: &[&BpfProgram],
) -> Result<(), SessionError> {
    for program in programs {
        let name = program.name;
        match program.attach_point {
            AttachPoint::RawTracepoint(tracepoint) => {
                let program = loader::raw_tracepoint(ebpf, name)?;
                let link = program.attach(tracepoint).and_then(|id| program.take_link(id));
                links.keep_lasting(link.map_err(|source| SessionError::program(name, source))?);
            }
            AttachPoint::FunctionExit(function) => {
                let btf = kernel_types(name)?;
                one(ebpf, links, name, |program: &mut FExit| {
                    program.load(function, &btf)?;
                    loader::log_verifier_stats(name, program.info());
                    let id = program.attach()?;
                    program.take_link(id)
                })?;
            }
            AttachPoint::Uprobe(_)
            | AttachPoint::Uretprobe(_)
            | AttachPoint::Exits(_)
            | AttachPoint::Session(_)
            | AttachPoint::Tracepoint { .. } => {}
        }
    }
    Ok(())
}

fn kernel_types(program: &'static str) -> Result<Btf, SessionError> {
    Btf::from_sys_fs().map_err(|source| SessionError::program(program, source.into()))
}

fn one<P, L: Send + 'static>(
    ebpf: &mut Ebpf,
    links: &mut Links,
    name: &'static str,
    attach: impl FnOnce(&mut P) -> Result<L, ProgramError>,
) -> Result<(), SessionError>
where
    for<'a> &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program: &mut P = pod::program(ebpf, name)?;
    let link = attach(program).map_err(|source| SessionError::program(name, source))?;
    links.keep_lasting(link);
    Ok(())
}
