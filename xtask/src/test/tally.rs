//! Counts tests from the output of test programs.
//!
//! Owns the parsing of libtest's result lines. Never rates a suite: that is [`crate::test`].

use std::iter::Sum;
use std::ops::AddAssign;

/// Counts of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
}

impl TestCounts {
    /// The count of one check outside of libtest.
    pub(crate) fn one<T>(result: &anyhow::Result<T>) -> Self {
        match result {
            Ok(_) => Self { passed: 1, ..Self::default() },
            Err(_) => Self { failed: 1, ..Self::default() },
        }
    }

    /// The counts in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for number in numbers.split(';') {
            let (count, what) = number.trim().split_once(' ')?;
            match what {
                "passed" => tally.passed = count.parse().ok()?,
                "failed" => tally.failed = count.parse().ok()?,
                "ignored" => tally.ignored = count.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }
}

impl AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, ignored } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
    }
}

impl Sum for TestCounts {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let check = |line: &str, expected: Option<(u32, u32, u32)>| {
            let expected = expected.map(|(passed, failed, ignored)| TestCounts { passed, failed, ignored });
            assert_eq!(TestCounts::of_line(line), expected, "{line}");
        };
        let rest = "0 measured; 2 filtered out; finished in 0.00s";
        check(&format!("test result: ok. 3 passed; 0 failed; 1 ignored; {rest}"), Some((3, 0, 1)));
        check(&format!("test result: FAILED. 10 passed; 2 failed; 0 ignored; {rest}"), Some((10, 2, 0)));
        check("test plan::tests::order ... ok", None);
        check("test result: lines like this one", None);
        check("running 3 tests", None);
    }
}
