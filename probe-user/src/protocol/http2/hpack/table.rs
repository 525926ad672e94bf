//! The dynamic table of HPACK.

use std::collections::VecDeque;

use super::HpackField;

/// What an entry counts in addition to its name and value (RFC 7541, 4.1).
pub(super) const OVERHEAD: usize = 32;
/// The size of the table until the encoder changes it (RFC 9113, 6.5.2).
pub(super) const INITIAL_SIZE: usize = 4096;
/// The largest size that is kept, which is what browsers allow. If an encoder uses more, its oldest entries
/// are unknown.
pub(super) const MAX_SIZE: usize = 64 * 1024;

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub field: HpackField,
    /// The size in the RFC's terms. It is too small if the name is unknown, so the entry is kept longer than
    /// the encoder keeps it.
    pub size: usize,
}

/// The known entries of the table, the newest one first. All older ones are unknown.
#[derive(Debug)]
pub(super) struct DynamicTable {
    entries: VecDeque<Entry>,
    /// The size of the entries.
    size: usize,
    /// The most that they may have.
    max_size: usize,
}

impl DynamicTable {
    pub(super) fn of_size(max_size: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, max_size }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The entry at a position, 0 being the newest one. None if it is unknown.
    pub(super) fn get(&self, position: usize) -> Option<&HpackField> {
        self.entries.get(position).map(|entry| &entry.field)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.size = self.size.saturating_add(entry.size);
        self.entries.push_front(entry);
        self.evict();
    }

    /// Sets the size to that which the encoder has announced.
    pub(super) fn set_size(&mut self, size: usize) {
        self.max_size = size.min(MAX_SIZE);
        self.evict();
    }

    /// Allows the table to have at least this size.
    pub(super) fn enlarge(&mut self, size: usize) {
        self.max_size = self.max_size.max(size.min(MAX_SIZE));
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    fn evict(&mut self) {
        while self.size > self.max_size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size = self.size.saturating_sub(oldest.size);
        }
    }
}
