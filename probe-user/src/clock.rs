//! The kernel's time → wall-clock time.

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since boot, including suspended time (`CLOCK_BOOTTIME`): the time of the kernel's records.
pub fn boot_time() -> u64 {
    nanoseconds(clock_gettime(ClockId::Boottime)).unsigned_abs()
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec)
}

/// The distance between `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    offset: i64,
}

impl Clock {
    /// Creates a clock from its offset: the nanoseconds from 1970 to the start of `CLOCK_BOOTTIME`.
    pub fn new(offset: i64) -> Self {
        Self { offset }
    }

    /// Measures the offset now. A later step of the wall clock does not change it, so that the times of one
    /// trace never go back.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        Self { offset: nanoseconds(clock_gettime(ClockId::Realtime)).wrapping_sub(nanoseconds(boot)) }
    }

    /// Converts nanoseconds of `CLOCK_BOOTTIME` to wall-clock time.
    pub fn timestamp(self, boottime: u64) -> Timestamp {
        let nanoseconds = i128::from(self.offset) + i128::from(boottime);
        // u64 nanoseconds are 584 years, which a timestamp can always hold.
        Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shifted() {
        let clock = Clock::new(1_767_322_800_000_000_000);
        assert_eq!(clock.timestamp(1).to_string(), "2026-01-02T03:00:00.000000001Z");
        assert!(clock.timestamp(u64::MAX) < Timestamp::MAX);
        let error = Clock::now().timestamp(boot_time()).duration_since(Timestamp::now());
        assert!(error.abs().as_secs() < 10, "{error:?}");
    }
}
