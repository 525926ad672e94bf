//! Reads the ring buffer through one mapping of its pages.
//!
//! aya maps them twice in a row, so that a record that goes on at the start of the ring is in one piece. The
//! kernel counts these pages twice as the process's memory then, which is most of it. So such a record, one
//! in each round of the ring, is copied here instead.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::SessionError;

/// Flags in the length of a record (`BPF_RINGBUF_BUSY_BIT`, `BPF_RINGBUF_DISCARD_BIT`).
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// The bytes before a record: its length and flags, and a number of the kernel's. Records are aligned to as
/// many (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;

/// The ring buffer, of which this is the only reader.
pub(super) struct Ring {
    map: MapData,
    pages: RingPages,
}

impl Ring {
    /// Maps the ring.
    pub(super) fn new(map: Map) -> Result<Self, SessionError> {
        const NAME: &str = "EVENTS";
        let Map::RingBuf(map) = map else { return Err(SessionError::Missing { name: NAME }) };
        let size = map.info().map_err(|source| SessionError::map(NAME, source))?.max_entries();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let pages = RingPages::map(map.fd().as_fd(), size).map_err(SessionError::poll)?;
        Ok(Self { map, pages })
    }

    /// Passes the oldest record to `visit`, and makes its room free. None if there is none yet.
    pub(super) fn next<T>(&mut self, visit: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.pages.next(visit)
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

/// The pages of a ring.
struct RingPages {
    /// Has the position up to which records were read.
    consumer: Pages,
    /// Has the position up to which there are records, and after that page the records.
    producer: Pages,
    /// The size of the ring, a power of two.
    size: NonZeroUsize,
    page: usize,
    /// What was read so far.
    position: usize,
    /// The end of the records, when it was last asked for: the kernel writes to its place with each record.
    end: usize,
    /// A record that was in two pieces.
    joined: Vec<u8>,
}

impl RingPages {
    fn map(ring: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let consumer = Pages::map(ring, 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let all = size.checked_add(page).ok_or(io::ErrorKind::InvalidInput)?;
        let producer = Pages::map(ring, page, all, ProtFlags::READ)?;
        let size = NonZeroUsize::new(size).filter(|size| size.is_power_of_two());
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        let position = consumer.number(0).map_or(0, |number| number.load(Ordering::Acquire));
        Ok(Self { consumer, producer, size, page, position, end: position, joined: Vec::new() })
    }

    fn next<T>(&mut self, visit: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let (at, length) = self.oldest()?;
        let result = visit(self.record(at, length)?);
        self.free(length)?;
        Some(result)
    }

    /// The offset in the ring and the length of the oldest record that is complete.
    fn oldest(&mut self) -> Option<(usize, usize)> {
        loop {
            if self.position == self.end {
                self.end = self.producer.number(0)?.load(Ordering::Acquire);
            }
            let at = self.position & (self.size.get() - 1);
            let length = self.producer.short_number(self.page + at)?.load(Ordering::Acquire);
            if self.position == self.end || length & BUSY != 0 {
                return None;
            }
            let bytes = usize::try_from(length & !DISCARDED).ok()?;
            if length & DISCARDED == 0 {
                return Some((at + HEADER, bytes));
            }
            self.free(bytes)?;
        }
    }

    /// Frees the room of the oldest record, which has this length.
    fn free(&mut self, length: usize) -> Option<()> {
        self.position = self.position.wrapping_add((HEADER + length).next_multiple_of(HEADER));
        self.consumer.number(0)?.store(self.position, Ordering::Release);
        Some(())
    }

    /// A record that begins at this offset of the ring or, if that is its end, at its start.
    fn record(&mut self, at: usize, length: usize) -> Option<&[u8]> {
        let (size, page) = (self.size.get(), self.page);
        let at = at & (size - 1);
        let here = length.min(size - at);
        let first = self.producer.bytes(page + at, here)?;
        if here == length {
            return Some(first);
        }
        let rest = self.producer.bytes(page, length - here)?;
        self.joined.clear();
        self.joined.extend_from_slice(first);
        self.joined.extend_from_slice(rest);
        Some(&self.joined)
    }
}

/// Pages that are mapped as long as this exists.
struct Pages {
    start: NonNull<u8>,
    length: usize,
}

#[expect(unsafe_code, reason = "the kernel writes to the mapped pages")]
// SAFETY: the pages are not bound to a thread.
unsafe impl Send for Pages {}

#[expect(unsafe_code, reason = "the kernel writes to the mapped pages")]
impl Pages {
    fn map(file: BorrowedFd<'_>, offset: usize, length: usize, protection: ProtFlags) -> io::Result<Self> {
        let offset = u64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses the address, so nothing else is mapped there.
        let start = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }

    /// The address of so many bytes at an offset. None if they are not within the pages, or not aligned.
    fn place<T>(&self, offset: usize, bytes: usize) -> Option<NonNull<T>> {
        let is_within = offset.checked_add(bytes).is_some_and(|end| end <= self.length);
        if !is_within {
            return None;
        }
        // SAFETY: the offset is within the pages.
        let place = unsafe { self.start.add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }

    fn number(&self, offset: usize) -> Option<&AtomicUsize> {
        let place = self.place(offset, size_of::<AtomicUsize>())?;
        // SAFETY: it is within the pages and aligned, and both sides access it atomically.
        Some(unsafe { place.as_ref() })
    }

    fn short_number(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.place(offset, size_of::<AtomicU32>())?;
        // SAFETY: it is within the pages and aligned, and both sides access it atomically.
        Some(unsafe { place.as_ref() })
    }

    /// Bytes of a record that is complete and was not read yet.
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let place = self.place::<u8>(offset, length)?;
        // SAFETY: they are within the pages. The kernel writes to a complete record only after the position
        // of the reader has passed it, which takes `&mut`.
        Some(unsafe { std::slice::from_raw_parts(place.as_ptr(), length) })
    }
}

#[expect(unsafe_code, reason = "what was mapped is unmapped")]
impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: these pages were mapped by `map`, and no reference to them outlives this.
        // That they cannot be unmapped is impossible.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// A file that looks like a ring, and its reader.
    struct FakeRing {
        file: File,
        size: usize,
        written: usize,
        pages: RingPages,
    }

    impl FakeRing {
        fn new() -> Self {
            let size = rustix::param::page_size();
            let file = tempfile::tempfile().unwrap();
            file.set_len(u64::try_from(3 * size).unwrap()).unwrap();
            let pages = RingPages::map(file.as_fd(), size).unwrap();
            Self { file, size, written: 0, pages }
        }

        fn write(&mut self, flags: u32, record: &[u8]) {
            let length = u32::try_from(record.len()).unwrap() | flags;
            let mut bytes = [&length.to_ne_bytes()[..], &[0; 4], record].concat();
            bytes.resize(bytes.len().next_multiple_of(HEADER), 0xff);
            for (index, byte) in bytes.iter().enumerate() {
                let at = 2 * self.size + (self.written + index) % self.size;
                self.file.write_all_at(&[*byte], u64::try_from(at).unwrap()).unwrap();
            }
            self.written += bytes.len();
            self.file.write_all_at(&self.written.to_ne_bytes(), u64::try_from(self.size).unwrap()).unwrap();
        }

        fn read(&mut self) -> Option<Vec<u8>> {
            self.pages.next(<[u8]>::to_vec)
        }

        fn position(&self) -> usize {
            let mut bytes = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            usize::from_ne_bytes(bytes)
        }
    }

    #[test]
    fn records_of_each_length_are_read_in_order_also_over_the_end() {
        let mut ring = FakeRing::new();
        assert_eq!(ring.read(), None);
        let mut joined = 0;
        for length in 0..1500 {
            let record: Vec<u8> =
                (0..length).map(|index| u8::try_from((index + length) % 251).unwrap()).collect();
            joined += usize::from(ring.written % ring.size + HEADER + length > ring.size);
            ring.write(0, &record);
            ring.write(DISCARDED, b"no");
            ring.write(0, b"next");
            assert_eq!(ring.read().as_deref(), Some(&record[..]), "{length}");
            assert_eq!(ring.read().as_deref(), Some(&b"next"[..]), "{length}");
            assert_eq!(ring.read(), None);
            assert_eq!(ring.position(), ring.written, "the room is free");
        }
        assert!(joined > 100, "{joined}");
    }

    #[test]
    fn what_is_still_written_holds_up_what_follows() {
        let mut ring = FakeRing::new();
        ring.write(0, b"first");
        ring.write(BUSY, b"busy");
        ring.write(0, b"last");
        assert_eq!(ring.read().as_deref(), Some(&b"first"[..]));
        assert_eq!(ring.read(), None);
        assert_eq!(ring.position(), 2 * HEADER);
    }

    #[test]
    fn a_ring_that_makes_no_sense_is_not_read_beyond() {
        let mut ring = FakeRing::new();
        ring.write(0, b"");
        let length = u32::try_from(2 * ring.size).unwrap().to_ne_bytes();
        ring.file.write_all_at(&length, u64::try_from(2 * ring.size).unwrap()).unwrap();
        assert_eq!(ring.read(), None);
        assert!(RingPages::map(ring.file.as_fd(), 3).is_err());
        assert!(RingPages::map(ring.file.as_fd(), usize::MAX).is_err());
    }
}
