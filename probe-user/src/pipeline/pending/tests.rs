//! Checks the order, the sizes and the bounds of what waits.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::test_rng::TestRng;

/// An entry with a name, and a size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sized(char, usize);

impl PendingBytes for Sized {
    fn bytes(&self) -> usize {
        self.1
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A key, and the new entry.
    Insert(u32, char, usize),
    Remove(u32),
    /// A key, and the new size.
    Update(u32, usize),
    /// Takes the entries whose keys are even.
    TakeEven,
    /// Empties entries while there are too many bytes.
    Shrink,
    /// Evicts entries while there are too many or too many bytes.
    Evict,
}
use Step::{Evict, Insert, Remove, Shrink, TakeEven, Update};

/// Runs the steps on a table of at most 3 entries and 100 bytes. The names of the entries are in the order in
/// which they were replaced, removed, taken, emptied or evicted; the remaining ones follow after a space.
fn check(steps: &[Step], expected: &str) {
    let mut table = PendingTable::new(PendingLimits { entries: 3, bytes: 100 });
    let mut out = Vec::new();
    for step in steps {
        match *step {
            Insert(key, name, bytes) => out.extend(table.insert(key, Sized(name, bytes))),
            Remove(key) => out.extend(table.remove(&key)),
            Update(key, bytes) => assert_eq!(table.update(&key, |entry| entry.1 = bytes), Some(())),
            TakeEven => out.extend(table.take_where(|key, _| key % 2 == 0)),
            Shrink => table
                .shrink(|entry| {
                    out.push(entry.clone());
                    entry.1 = 0;
                    Ok::<(), ()>(())
                })
                .unwrap(),
            Evict => out.extend(std::iter::from_fn(|| table.evict())),
        }
    }
    let mut names: String = out.iter().map(|entry| entry.0).collect();
    names.push(' ');
    names.extend(table.take_where(|_, _| true).iter().map(|entry| entry.0));
    assert_eq!(names, expected, "{steps:?}");
    assert!(table.is_empty());
    assert_eq!(table.bytes, 0, "{steps:?}");
}

#[test]
fn entries_leave_in_the_order_in_which_they_came() {
    check(&[], " ");
    check(&[Insert(3, 'a', 1), Insert(1, 'b', 1), Insert(2, 'c', 1)], " abc");
    check(&[Insert(1, 'a', 1), Insert(2, 'b', 1), Remove(1), Remove(1), Remove(7)], "a b");
    check(&[Insert(4, 'a', 1), Insert(1, 'b', 1), Insert(2, 'c', 1), TakeEven], "ac b");
    // A change keeps the age, and a replacement is new.
    check(&[Insert(1, 'a', 1), Insert(2, 'b', 1), Update(1, 9)], " ab");
    check(&[Insert(1, 'a', 1), Insert(2, 'b', 1), Insert(1, 'c', 1)], "a bc");
}

#[test]
fn only_the_oldest_are_evicted() {
    let three = [Insert(1, 'a', 10), Insert(2, 'b', 10), Insert(3, 'c', 10)];
    check(&[three.as_slice(), &[Evict]].concat(), " abc");
    check(&[three.as_slice(), &[Insert(4, 'd', 10), Evict]].concat(), "a bcd");
    check(&[three.as_slice(), &[Insert(4, 'd', 81), Evict]].concat(), "ab cd");
    check(&[three.as_slice(), &[Insert(4, 'd', 101), Evict]].concat(), "abcd ");
    check(&[three.as_slice(), &[Update(3, 81), Evict]].concat(), "a bc");
    check(&[three.as_slice(), &[Insert(1, 'd', 10), Insert(4, 'e', 10), Evict]].concat(), "ab cde");
    check(&[three.as_slice(), &[Update(3, 100), Update(3, 80), Evict]].concat(), " abc");
}

#[test]
fn entries_that_are_emptied_remain() {
    let three = [Insert(1, 'a', 0), Insert(2, 'b', 50), Insert(3, 'c', 50)];
    check(&[three.as_slice(), &[Shrink]].concat(), " abc");
    check(&[three.as_slice(), &[Update(1, 1), Shrink]].concat(), "a abc");
    check(&[three.as_slice(), &[Update(3, 51), Shrink]].concat(), "b abc");
    check(&[three.as_slice(), &[Update(3, 101), Shrink, Evict]].concat(), "bc abc");
}

#[test]
fn an_error_ends_emptying() {
    let mut table = PendingTable::new(PendingLimits { entries: 9, bytes: 0 });
    table.insert(1, Sized('a', 5));
    table.insert(2, Sized('b', 5));
    let result = table.shrink(|entry| {
        entry.1 = 2;
        Err(entry.0)
    });
    assert_eq!((result, table.bytes), (Err('a'), 7));
}

/// Random steps give the same as a list that is searched from its start.
#[test]
fn it_is_like_a_list_in_order() {
    let mut rng = TestRng(0x9e37_79b9_7f4a_7c15);
    let limits = PendingLimits { entries: 8, bytes: 400 };
    let mut table = PendingTable::new(limits);
    let mut list: Vec<(usize, Sized)> = Vec::new();
    let mut evicted = 0;
    for step in 0..20_000 {
        let (key, bytes) = (rng.below(16), rng.below(120));
        let at = list.iter().position(|(other, _)| *other == key);
        match rng.below(4) {
            0 | 1 => {
                let entry = Sized(char::from(b'a' + u8::try_from(key).unwrap()), bytes);
                let expected = at.map(|at| list.remove(at).1);
                list.push((key, entry.clone()));
                assert_eq!(table.insert(key, entry), expected, "step {step}");
            }
            2 => {
                let expected = at.map(|at| list[at].1.1 = bytes);
                assert_eq!(table.update(&key, |entry| entry.1 = bytes), expected, "step {step}");
            }
            _ => assert_eq!(table.remove(&key), at.map(|at| list.remove(at).1), "step {step}"),
        }
        let sum = |list: &[(usize, Sized)]| list.iter().map(|(_, entry)| entry.1).sum::<usize>();
        while list.len() > limits.entries || sum(&list) > limits.bytes {
            assert_eq!(table.evict(), Some(list.remove(0).1), "step {step}");
            evicted += 1;
        }
        assert_eq!(table.evict(), None, "step {step}");
        assert_eq!((table.bytes, table.entries.len()), (sum(&list), list.len()), "step {step}");
        assert_eq!(table.get(&key), list.iter().find(|(other, _)| *other == key).map(|(_, entry)| entry));
    }
    assert!(evicted > 100, "the bounds were reached only {evicted} times");
    assert_eq!(table.evicted(), evicted);
}
