//! Deterministic junk for tests of parsers of foreign bytes.

/// How many random cases a test tries: `CTRACE_TEST_CASES`, or as many as are fast.
pub(crate) fn cases(fast: u64) -> u64 {
    std::env::var("CTRACE_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(fast)
}

/// A small xorshift generator. Equal seeds give equal bytes on every machine.
pub(crate) struct TestRng(pub(crate) u64);

impl TestRng {
    /// A random number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number less than `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    /// Up to 300 bytes out of `alphabet`, or any bytes if that is empty.
    pub(crate) fn bytes(&mut self, alphabet: &[u8]) -> Vec<u8> {
        let length = self.below(300);
        (0..length)
            .map(|_| {
                let value = self.next();
                let index = usize::try_from(value % (alphabet.len().max(1) as u64)).unwrap_or(0);
                alphabet.get(index).copied().unwrap_or(value.to_le_bytes()[4])
            })
            .collect()
    }

    /// Calls `look` with damaged copies of a file. Each has damage in one to eight places, and in every other
    /// copy these are in the headers, where it matters most.
    pub(crate) fn mutations(&mut self, good: &[u8], copies: u32, mut look: impl FnMut(&[u8])) {
        for copy in 0..copies {
            let mut bytes = good.to_vec();
            for _ in 0..=self.below(8) {
                let at = self.below(if copy % 2 == 0 { 1024 } else { good.len() - 8 });
                self.damage(&mut bytes, at);
            }
            look(&bytes);
        }
    }

    /// Overwrites 1 to 8 of `bytes` at `at` with values that damage the numbers in a file most: the ends of
    /// ranges.
    pub(crate) fn damage(&mut self, bytes: &mut [u8], at: usize) {
        let any = self.next().to_le_bytes()[2];
        let value = [0, 0xff, 0x7f, 0x80, any].get(self.below(5)).copied().unwrap_or(any);
        let width = 1 << self.below(4);
        bytes.iter_mut().skip(at).take(width).for_each(|byte| *byte = value);
    }
}
