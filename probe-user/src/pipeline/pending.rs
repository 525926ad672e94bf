//! What waits for records that come later, such as calls for their rest or for their return.
//!
//! Owns the order, the sizes and the bounds of what waits, for every stage of the pipeline. Nothing is
//! removed without being handed to the stage, which decides what to report about it.

use std::fmt;
use std::hash::Hash;

use lru::LruCache;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLimits {
    pub(super) entries: usize,
    /// In terms of [`PendingBytes`].
    pub(super) bytes: usize,
}

/// Something that waits, and whose size counts.
pub(super) trait PendingBytes {
    /// The size of what it keeps on the heap in bytes. Must be cheap, because it is called often.
    fn bytes(&self) -> usize;
}

/// What waits, by key, with the oldest entry first.
pub(super) struct PendingTable<K, V> {
    /// In the order of insertion: nothing here counts as a use.
    entries: LruCache<K, V>,
    limits: PendingLimits,
    /// The sum over all entries.
    bytes: usize,
    evicted: u64,
}

impl<K: Copy + Eq + Hash, V: PendingBytes> PendingTable<K, V> {
    pub(super) fn new(limits: PendingLimits) -> Self {
        Self { entries: LruCache::unbounded(), limits, bytes: 0, evicted: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of entries that were evicted.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.peek(key)
    }

    /// Adds the newest entry. Returns the one that it replaces. To be followed by [`evict`](Self::evict).
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.bytes = self.bytes.saturating_add(value.bytes());
        let replaced = self.entries.put(key, value);
        self.forget_bytes(replaced.as_ref());
        replaced
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.pop(key);
        self.forget_bytes(removed.as_ref());
        removed
    }

    /// Changes an entry, which keeps its age.
    pub(super) fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let value = self.entries.peek_mut(key)?;
        let before = value.bytes();
        let result = change(value);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(value.bytes());
        Some(result)
    }

    /// Removes the entries for which `is_over` returns true, oldest first.
    pub(super) fn take_where(&mut self, mut is_over: impl FnMut(&K, &mut V) -> bool) -> Vec<V> {
        let over =
            self.entries.iter_mut().rev().filter_map(|(key, value)| is_over(key, value).then_some(*key));
        let over: Vec<K> = over.collect();
        over.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// While there are too many bytes, empties the oldest entries that have any. They remain, because what
    /// they wait for can still come.
    pub(super) fn shrink<E>(&mut self, mut empty: impl FnMut(&mut V) -> Result<(), E>) -> Result<(), E> {
        while self.bytes > self.limits.bytes {
            let Some((_, oldest)) = self.entries.iter_mut().rev().find(|(_, value)| value.bytes() > 0) else {
                break;
            };
            let before = oldest.bytes();
            let result = empty(oldest);
            self.bytes = self.bytes.saturating_sub(before).saturating_add(oldest.bytes());
            result?;
        }
        Ok(())
    }

    /// Whether there are too many entries or bytes.
    pub(super) fn is_over(&self) -> bool {
        self.entries.len() > self.limits.entries || self.bytes > self.limits.bytes
    }

    /// Removes the oldest entry, if there are too many entries or bytes.
    pub(super) fn evict(&mut self) -> Option<V> {
        if self.is_over() { self.evict_oldest() } else { None }
    }

    /// Removes the oldest entry to make room, and counts it.
    pub(super) fn evict_oldest(&mut self) -> Option<V> {
        let (_, oldest) = self.entries.pop_lru()?;
        self.forget_bytes(Some(&oldest));
        self.evicted = self.evicted.saturating_add(1);
        Some(oldest)
    }

    fn forget_bytes(&mut self, value: Option<&V>) {
        self.bytes = self.bytes.saturating_sub(value.map_or(0, V::bytes));
    }
}

impl<K, V> fmt::Debug for PendingTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries: _, limits, bytes, evicted } = self;
        let mut shown = f.debug_struct("PendingTable");
        shown.field("limits", limits).field("bytes", bytes).field("evicted", evicted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
