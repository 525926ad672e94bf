//! ctrace's BPF programs: entry points only.
//!
//! Thin by design: what could be tested outside the kernel is in `probe-common`. [`scope`] decides, [`io`],
//! [`connection`], [`process`] and [`uprobe`] do, [`emit`] is the only writer of the ring, [`mem`] has all that
//! is unsafe.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "core's atomic types have no fetch_add for this target; BPF has")]
#![feature(core_intrinsics)]

mod connection;
mod emit;
mod io;
mod maps;
mod mem;
mod process;
mod scope;
mod uprobe;

use aya_ebpf::{
    macros::{fentry, fexit, raw_tracepoint, tracepoint, uprobe, uretprobe},
    programs::{
        FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext,
    },
};

use connection::{
    lifecycle,
    socket::{self, Way},
};
use io::{borrowed, call, callback, entry_only, go, iovec};
use process::{cgroup, exec, stop_on_mmap, task};

#[uprobe]
fn call_enter(ctx: ProbeContext) -> u32 {
    call::enter(&ctx);
    0
}

#[uretprobe]
fn call_return(ctx: RetProbeContext) -> u32 {
    call::leave(&ctx);
    0
}

#[uprobe]
fn call_leave(ctx: ProbeContext) -> u32 {
    call::on_ret(&ctx);
    0
}

#[uprobe]
fn open_leave(ctx: ProbeContext) -> u32 {
    call::opened_at_end(&ctx);
    0
}

#[uretprobe]
fn open_return(ctx: RetProbeContext) -> u32 {
    call::opened(&ctx);
    0
}

#[uprobe]
fn open_enter(ctx: ProbeContext) -> u32 {
    call::open_first(&ctx);
    0
}

#[uretprobe]
fn open_behind_return(ctx: RetProbeContext) -> u32 {
    call::opened_behind_first(&ctx);
    0
}

#[uprobe]
fn close_enter(ctx: ProbeContext) -> u32 {
    call::close_first(&ctx);
    0
}

#[uprobe]
fn open_once_enter(ctx: ProbeContext) -> u32 {
    call::open_once(&ctx);
    0
}

#[uretprobe]
fn handshake_return(ctx: RetProbeContext) -> u32 {
    lifecycle::on_handshake_return(&ctx);
    0
}

#[uprobe]
fn cipher_enter(ctx: ProbeContext) -> u32 {
    call::ciphers(&ctx);
    0
}

#[uprobe]
fn gather_enter(ctx: ProbeContext) -> u32 {
    iovec::enter(&ctx);
    0
}

#[uretprobe]
fn gather_return(ctx: RetProbeContext) -> u32 {
    iovec::returned(&ctx);
    0
}

#[uprobe]
fn gather_leave(ctx: ProbeContext) -> u32 {
    iovec::leave(&ctx);
    0
}

#[uprobe]
fn whole_enter(ctx: ProbeContext) -> u32 {
    entry_only::enter(&ctx);
    0
}

#[uprobe]
fn outer_enter(ctx: ProbeContext) -> u32 {
    callback::enter(&ctx);
    0
}

#[uprobe]
fn handed_enter(ctx: ProbeContext) -> u32 {
    callback::hand_over(&ctx);
    0
}

#[uretprobe]
fn lent_return(ctx: RetProbeContext) -> u32 {
    borrowed::returned(&ctx);
    0
}

#[uretprobe]
fn unpack_return(ctx: RetProbeContext) -> u32 {
    borrowed::unpacked(&ctx);
    0
}

#[uprobe]
fn function_enter(ctx: ProbeContext) -> u32 {
    uprobe::enter(&ctx);
    0
}

#[uretprobe]
fn function_return(ctx: RetProbeContext) -> u32 {
    uprobe::returned(&ctx);
    0
}

#[uprobe]
fn go_enter(ctx: ProbeContext) -> u32 {
    go::enter(&ctx);
    0
}

#[uprobe]
fn function_leave(ctx: ProbeContext) -> u32 {
    uprobe::leave(&ctx);
    0
}

#[uprobe]
fn go_leave(ctx: ProbeContext) -> u32 {
    go::leave(&ctx);
    0
}

#[uprobe]
fn go_open(ctx: ProbeContext) -> u32 {
    go::open(&ctx);
    0
}

#[uprobe]
fn go_close(ctx: ProbeContext) -> u32 {
    go::close(&ctx);
    0
}

#[tracepoint]
fn task_fork(ctx: TracePointContext) -> u32 {
    task::fork(&ctx);
    0
}

#[tracepoint]
fn task_exec(ctx: TracePointContext) -> u32 {
    task::exec(&ctx);
    0
}

#[tracepoint]
fn task_exit(ctx: TracePointContext) -> u32 {
    task::exit(&ctx);
    0
}

#[tracepoint]
fn mmap_enter(ctx: TracePointContext) -> u32 {
    stop_on_mmap::mmap_enter(&ctx);
    0
}

#[tracepoint]
fn mmap_exit(ctx: TracePointContext) -> u32 {
    stop_on_mmap::mmap_exit(&ctx);
    0
}

#[tracepoint]
fn cgroup_made(ctx: TracePointContext) -> u32 {
    cgroup::made(&ctx);
    0
}

#[tracepoint]
fn cgroup_gone(ctx: TracePointContext) -> u32 {
    cgroup::gone(&ctx);
    0
}

#[tracepoint]
fn task_new(ctx: TracePointContext) -> u32 {
    exec::forked(&ctx);
    0
}

#[tracepoint]
fn exec_enter(ctx: TracePointContext) -> u32 {
    exec::enter(&ctx);
    0
}

#[tracepoint]
fn exec_at_enter(ctx: TracePointContext) -> u32 {
    exec::enter_at(&ctx);
    0
}

#[tracepoint]
fn exec_exit(ctx: TracePointContext) -> u32 {
    exec::exit(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sock_send_length")]
fn socket_sent(ctx: RawTracePointContext) -> u32 {
    socket::done(&ctx, Way::Out);
    0
}

#[raw_tracepoint(tracepoint = "sock_recv_length")]
fn socket_received(ctx: RawTracePointContext) -> u32 {
    socket::done(&ctx, Way::In);
    0
}

#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
fn socket_closed(ctx: RawTracePointContext) -> u32 {
    lifecycle::socket_closed(&ctx);
    0
}

#[fentry(function = "security_socket_sendmsg")]
fn socket_sends(ctx: FEntryContext) -> u32 {
    socket::sends(&ctx);
    0
}

#[fexit(function = "inet_recvmsg")]
fn inet_received(ctx: FExitContext) -> u32 {
    socket::received(&ctx);
    0
}

#[fexit(function = "inet6_recvmsg")]
fn inet6_received(ctx: FExitContext) -> u32 {
    socket::received(&ctx);
    0
}

#[fexit(function = "unix_stream_recvmsg")]
fn unix_received(ctx: FExitContext) -> u32 {
    socket::received(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers, such as the one that reads user memory, are for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
