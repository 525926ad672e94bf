//! A position in foreign bytes, which never goes beyond their end.

/// The rest of the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    /// Takes exactly `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes up to `length` bytes, as many as there are.
    pub(crate) fn take_some(&mut self, length: usize) -> &'a [u8] {
        self.take(length.min(self.0.len())).unwrap_or_default()
    }

    /// Takes a number of one byte.
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Takes a number of two bytes, most significant first.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// Takes bytes that follow their length of one byte.
    pub(crate) fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Takes bytes that follow their length of two bytes.
    pub(crate) fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
