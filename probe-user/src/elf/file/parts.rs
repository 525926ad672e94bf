//! Reads a large range on several processors.

use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use super::reader::FileRange;
use crate::elf::ObjectError;

/// Most threads for one range. The process that is attached to waits for the result.
const THREADS: usize = 8;
/// Ranges that are smaller than this are not worth a thread, in bytes.
const LEAST: u64 = 4 << 20;

/// Divides a range among threads, and returns their results in order. `work` gets the part of the range that
/// is its own, in distances from the range's beginning, and that part of the file with `overlap` more bytes
/// after it.
pub(in crate::elf) fn in_parts<T: Send>(
    extent: FileRange,
    overlap: u64,
    work: impl Fn(Range<u64>, FileRange) -> Result<T, ObjectError> + Sync,
) -> Result<Vec<T>, ObjectError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS) as u64;
    let size = extent.length.div_ceil(threads).max(LEAST);
    let parts: Vec<Range<u64>> = (0..threads)
        .map(|part| part.saturating_mul(size)..part.saturating_add(1).saturating_mul(size).min(extent.length))
        .filter(|part| part.start < part.end)
        .collect();
    let run = |part: &Range<u64>| {
        let length = (part.end - part.start).saturating_add(overlap);
        work(part.clone(), extent.tail(part.start).head(length))
    };
    let Some((last, others)) = parts.split_last() else { return Ok(Vec::new()) };
    let run = &run;
    thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|part| scope.spawn(move || run(part))).collect();
        let last = run(last);
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.chain([last]).collect()
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic fails the test")]

    use super::{LEAST, in_parts};
    use crate::elf::file::reader::FileRange;

    #[test]
    fn parts_cover_the_range_once_and_overlap() {
        for length in [0, 1, LEAST, LEAST + 1, 5 * LEAST + 7] {
            let extent = FileRange { offset: 100, length };
            let parts = in_parts(extent, 4, |part, file| Ok((part, file))).unwrap();
            let mut at = 0;
            for (part, file) in parts {
                assert_eq!((part.start, file.offset), (at, 100 + at));
                assert_eq!(file.length, (part.end - part.start + 4).min(length - at));
                at = part.end;
            }
            assert_eq!(at, length);
        }
    }
}
