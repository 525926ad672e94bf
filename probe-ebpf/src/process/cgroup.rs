//! Cgroups as they come and go. Only the v2 hierarchy: the filter knows no other.

use aya_ebpf::programs::TracePointContext;
use probe_common::{KIND_CGROUP_GONE, KIND_CGROUP_MADE};

use crate::{
    constants::{CGROUP_ID, CGROUP_LEVEL, CGROUP_PATH, CGROUP_ROOT},
    emit,
    maps::CGROUPS,
    mem,
};

/// The number of the v2 hierarchy, also in /proc/PID/cgroup.
const UNIFIED: u32 = 0;

/// `cgroup_mkdir`.
#[inline(always)]
pub fn made(ctx: &TracePointContext) -> Option<()> {
    emit_event(ctx, KIND_CGROUP_MADE).map(drop)
}

/// `cgroup_rmdir`: nothing runs in it any more. Its id leaves the filter here, so that nothing is left
/// behind whether userspace hears of it or not.
#[inline(always)]
pub fn gone(ctx: &TracePointContext) -> Option<()> {
    let id = emit_event(ctx, KIND_CGROUP_GONE)?;
    CGROUPS.remove(id).ok();
    Some(())
}

/// Gives the cgroup's id.
#[inline(always)]
fn emit_event(ctx: &TracePointContext, kind: u32) -> Option<u64> {
    let root: u32 = mem::field(ctx, mem::constant(&CGROUP_ROOT))?;
    if root != UNIFIED {
        return None;
    }
    let id: u64 = mem::field(ctx, mem::constant(&CGROUP_ID))?;
    let level: u32 = mem::field(ctx, mem::constant(&CGROUP_LEVEL))?;
    // Where the text is: its offset in the lower half, its length in the upper.
    let place: u32 = mem::field(ctx, mem::constant(&CGROUP_PATH))?;
    emit::cgroup(kind, id, level, |path| mem::text(path, ctx, (place & 0xffff) as usize));
    Some(id)
}
