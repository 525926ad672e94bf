//! ctrace's BPF programs: entry points only.
//!
//! Thin by design: what can be tested outside the kernel is in `probe-common`. [`scope`] is the filter,
//! [`io`] has the calls that transfer bytes, [`connection`] the connections they belong to, [`process`] the
//! programs and processes, and [`uprobe`] the functions that a user names. [`emit`] is the only writer of the
//! ring, and [`mem`] contains everything that is unsafe.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "core's atomic types have no fetch_add for this target; BPF has")]
#![feature(core_intrinsics)]

mod connection;
mod constants;
mod current;
mod emit;
mod io;
mod maps;
mod mem;
mod process;
mod scope;
mod uprobe;

use aya_ebpf::{
    macros::{fexit, raw_tracepoint, tracepoint, uprobe, uretprobe},
    programs::{FExitContext, ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext},
};

use connection::{lifecycle, socket};
use io::{borrowed, call, callback, entry_only, go, iovec};
use process::{cgroup, exec, exec_failure, signal, task};

/// Defines programs of one kind, each with its name in the object file and the function that gets its
/// context. The kernel ignores what these programs return.
macro_rules! programs {
    ($(#[$kind:meta] $context:ident { $($name:ident => $handler:path;)+ })+) => {
        $($(
            #[$kind]
            fn $name(ctx: $context) -> u32 {
                $handler(&ctx);
                0
            }
        )+)+
    };
}

/// Defines programs that run at the entry of a function and, for the calls that the entry has kept, at its
/// return. The kernel does nothing to the return of other calls. aya's macro would return 0 for all, which
/// keeps them.
macro_rules! sessions {
    ($($name:ident => $enter:path, $leave:path;)+) => {
        $(
            #[unsafe(link_section = "uprobe")]
            #[unsafe(no_mangle)]
            fn $name(registers: *mut core::ffi::c_void) -> u32 {
                let entry = ProbeContext::new(registers);
                if mem::is_at_entry(&entry) {
                    return u32::from($enter(&entry).is_none());
                }
                $leave(&RetProbeContext::new(registers));
                0
            }
        )+
    };
}

// Functions of TLS libraries.
programs! {
    #[uprobe]
    ProbeContext {
        call_enter => call::enter;
        call_leave => call::leave;
        open_enter => lifecycle::open_first;
        open_once_enter => lifecycle::open_if_new;
        open_leave => lifecycle::opened;
        open_behind_leave => lifecycle::opened_out_argument;
        handshake_leave => lifecycle::on_handshake_return;
        close_enter => lifecycle::close_first;
        cipher_enter => lifecycle::mark_tls;
        gather_enter => iovec::enter;
        gather_leave => iovec::leave;
        lent_leave => borrowed::returned;
        unpack_leave => borrowed::unpacked;
        whole_enter => entry_only::enter;
        outer_enter => callback::enter;
        handed_enter => callback::hand_over;
        go_enter => go::enter;
        go_leave => go::leave;
        go_open => go::open;
        go_close => go::close;
    }
    #[uretprobe]
    RetProbeContext {
        call_return => call::leave;
        open_return => lifecycle::opened;
        open_behind_return => lifecycle::opened_out_argument;
        handshake_return => lifecycle::on_handshake_return;
        gather_return => iovec::leave;
        lent_return => borrowed::returned;
        unpack_return => borrowed::unpacked;
    }
}

sessions! {
    call_session => call::enter, call::leave;
    open_session => call::enter, lifecycle::opened;
    open_behind_session => call::enter, lifecycle::opened_out_argument;
    handshake_session => call::enter, lifecycle::on_handshake_return;
    gather_session => iovec::enter, iovec::leave;
    lent_session => call::enter, borrowed::returned;
    unpack_session => call::enter, borrowed::unpacked;
}

// Functions of `ctrace uprobe`.
programs! {
    #[uprobe]
    ProbeContext {
        function_enter => uprobe::enter;
        function_leave => uprobe::leave;
    }
    #[uretprobe]
    RetProbeContext {
        function_return => uprobe::leave;
    }
}

sessions! {
    function_session => uprobe::enter, uprobe::leave;
}

// Processes, threads and cgroups.
programs! {
    #[raw_tracepoint(tracepoint = "sched_process_exec")]
    RawTracePointContext {
        task_exec => task::exec;
    }
    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    RawTracePointContext {
        task_exit => task::exit;
    }
    #[tracepoint]
    TracePointContext {
        task_exec_record => task::exec_with_record;
        task_new => exec::forked;
        task_fork => task::fork;
        exec_enter => exec_failure::enter;
        exec_at_enter => exec_failure::enter_at;
        exec_exit => exec_failure::exit;
        cgroup_created => cgroup::created;
        cgroup_removed => cgroup::removed;
    }
}

// Signals that a probe may have caused.
programs! {
    #[raw_tracepoint(tracepoint = "signal_deliver")]
    RawTracePointContext {
        signal_delivered => signal::deliver;
    }
}

// Sockets. Kernels before 6.3 have no tracepoints for sent and received bytes, so functions are used there.
programs! {
    #[raw_tracepoint(tracepoint = "sock_send_length")]
    RawTracePointContext {
        socket_sent => socket::sent;
        socket_sent_in_clear => socket::sent_in_clear;
    }
    #[raw_tracepoint(tracepoint = "sock_recv_length")]
    RawTracePointContext {
        socket_received => socket::received;
        socket_received_in_clear => socket::received_in_clear;
    }
    #[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
    RawTracePointContext {
        socket_closed => lifecycle::socket_closed;
    }
    #[fexit(function = "inet_sendmsg")]
    FExitContext {
        inet_sent => socket::on_sendmsg;
        inet_sent_in_clear => socket::on_sendmsg_in_clear;
    }
    #[fexit(function = "inet6_sendmsg")]
    FExitContext {
        inet6_sent => socket::on_sendmsg;
        inet6_sent_in_clear => socket::on_sendmsg_in_clear;
    }
    #[fexit(function = "unix_stream_sendmsg")]
    FExitContext {
        unix_sent => socket::on_sendmsg;
        unix_sent_in_clear => socket::on_sendmsg_in_clear;
    }
    #[fexit(function = "inet_sendpage")]
    FExitContext {
        inet_sent_page => socket::on_sendpage;
        inet_sent_page_in_clear => socket::on_sendpage_in_clear;
    }
    #[fexit(function = "inet_recvmsg")]
    FExitContext {
        inet_received => socket::on_recvmsg;
        inet_received_in_clear => socket::on_recvmsg_in_clear;
    }
    #[fexit(function = "inet6_recvmsg")]
    FExitContext {
        inet6_received => socket::on_recvmsg;
        inet6_received_in_clear => socket::on_recvmsg_in_clear;
    }
    #[fexit(function = "unix_stream_recvmsg")]
    FExitContext {
        unix_received => socket::on_recvmsg;
        unix_received_in_clear => socket::on_recvmsg_in_clear;
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers, such as the one that reads user memory, may only be called by programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
