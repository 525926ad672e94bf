//! Created and removed cgroups. Only the v2 hierarchy, because the filter supports no other.

use aya_ebpf::programs::TracePointContext;
use probe_common::{KIND_CGROUP_CREATED, KIND_CGROUP_REMOVED};

use crate::{
    constants::{CGROUP_ID, CGROUP_LEVEL, CGROUP_PATH, CGROUP_ROOT},
    emit,
    maps::CGROUPS,
    mem,
};

/// The number of the v2 hierarchy, as in /proc/PID/cgroup.
const UNIFIED: u32 = 0;

/// `cgroup_mkdir`.
#[inline(always)]
pub fn created(ctx: &TracePointContext) -> Option<()> {
    emit_event(ctx, KIND_CGROUP_CREATED).map(drop)
}

/// `cgroup_rmdir`: no process is in the cgroup any more. Its id is removed from the filter here, so that
/// nothing is left behind even if userspace does not get the record.
#[inline(always)]
pub fn removed(ctx: &TracePointContext) -> Option<()> {
    let id = emit_event(ctx, KIND_CGROUP_REMOVED)?;
    CGROUPS.remove(id).ok();
    Some(())
}

/// Emits the record. Returns the cgroup's id.
#[inline(always)]
fn emit_event(ctx: &TracePointContext, kind: u32) -> Option<u64> {
    let root: u32 = mem::field(ctx, mem::constant(&CGROUP_ROOT))?;
    if root != UNIFIED {
        return None;
    }
    let id: u64 = mem::field(ctx, mem::constant(&CGROUP_ID))?;
    let level: u32 = mem::field(ctx, mem::constant(&CGROUP_LEVEL))?;
    // The position of the text: its offset in the lower half, its length in the upper half.
    let place: u32 = mem::field(ctx, mem::constant(&CGROUP_PATH))?;
    emit::cgroup(kind, id, level, |path| mem::text(path, ctx, (place & 0xffff) as usize));
    Some(id)
}
