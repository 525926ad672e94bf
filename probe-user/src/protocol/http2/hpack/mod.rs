//! HPACK (RFC 7541), the compression of header lists, for an observer that may not have seen everything.
//!
//! A header list refers to the dynamic table, which previous lists have filled. What was inserted before the
//! observer came, or in a gap, is unknown, and so is a field that refers to it: this is a value of its own,
//! never a guess. Positions count from the newest entry, so entries that are inserted later are exact,
//! however many unknown ones are behind them. This needs no knowledge of the table's real size either: an
//! entry that the encoder has evicted is never referred to, so a table that is too large does no harm.

mod huffman;
mod static_table;
mod table;

use std::sync::Arc;

use table::{DynamicTable, Entry};

/// The largest integer. The RFC has no limit; the largest that a peer can need is a table's size, which the
/// other side limits by a number of 32 bits.
const MAX_INTEGER: usize = u32::MAX as usize;
/// The most bytes of names and values of a decoded list, with the RFC's overhead of 32 bytes per field. One
/// byte can refer to an entry of the table's size, so a list can be much longer than its encoding. This is
/// the default limit of large servers (64 KiB) with room to spare.
pub(super) const MAX_LIST_BYTES: usize = 256 * 1024;

/// A text that many lists share.
type Text = Arc<str>;

/// A field of a header list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HpackField {
    /// The name. None if it is unknown.
    pub name: Option<Text>,
    /// The value. None if it is unknown.
    pub value: Option<Text>,
}

/// A decoded header list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HeaderList {
    /// The fields in order.
    pub fields: Vec<HpackField>,
    /// Whether fields at its end were dropped, because it is longer than [`MAX_LIST_BYTES`].
    pub is_cut: bool,
}

/// The encoding of a header list violates the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no header list: {0}")]
pub(super) struct Malformed(&'static str);

/// Decodes the header lists of one direction.
#[derive(Debug)]
pub(super) struct HpackDecoder {
    table: DynamicTable,
}

impl HpackDecoder {
    /// A decoder of a direction that is observed from its first list.
    pub(super) fn from_start() -> Self {
        Self { table: DynamicTable::of_size(table::INITIAL_SIZE) }
    }

    /// A decoder of a direction that is joined in the middle: all entries so far are unknown, and so is the
    /// table's size.
    pub(super) fn joined() -> Self {
        Self { table: DynamicTable::of_size(table::MAX_SIZE) }
    }

    /// Handles lists that were missed: all entries so far are unknown.
    pub(super) fn missed_lists(&mut self) {
        self.table.clear();
        // Among the missed ones may have been one that enlarged the table.
        self.table.enlarge(table::MAX_SIZE);
    }

    /// Handles the size of the table that the other side allows (SETTINGS_HEADER_TABLE_SIZE).
    pub(super) fn allow_size(&mut self, size: usize) {
        self.table.enlarge(size);
    }

    /// The approximate memory that it takes.
    pub(super) fn held_bytes(&self) -> usize {
        self.table.size()
    }

    /// Decodes a header list. If it is malformed, the entries of the table become unknown.
    pub(super) fn decode(&mut self, encoded: &[u8]) -> Result<HeaderList, Malformed> {
        let result = self.decode_all(encoded);
        if result.is_err() {
            self.missed_lists();
        }
        result
    }

    fn decode_all(&mut self, encoded: &[u8]) -> Result<HeaderList, Malformed> {
        let mut reader = Reader { rest: encoded };
        let mut list = HeaderList::default();
        let mut bytes = 0_usize;
        while let Some(&first) = reader.rest.first() {
            if first & 0b1110_0000 == 0b0010_0000 {
                self.table.set_size(reader.integer(5)?);
                continue;
            }
            let field = self.field(first, &mut reader)?;
            let length = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.len());
            bytes = bytes.saturating_add(table::OVERHEAD + length(&field.name) + length(&field.value));
            // The rest is decoded nevertheless, because it may insert entries into the table.
            if bytes > MAX_LIST_BYTES {
                list.is_cut = true;
            } else {
                list.fields.push(field);
            }
        }
        Ok(list)
    }

    fn field(&mut self, first: u8, reader: &mut Reader<'_>) -> Result<HpackField, Malformed> {
        if first & 0b1000_0000 != 0 {
            let index = reader.integer(7)?;
            return match self.entry(index)? {
                Some(entry) => Ok(entry),
                None => Ok(HpackField { name: None, value: None }),
            };
        }
        let is_inserted = first & 0b0100_0000 != 0;
        // The others are literals that are not inserted. Whether they may be (0000) or may never be (0001)
        // concerns intermediaries.
        let index = reader.integer(if is_inserted { 6 } else { 4 })?;
        let (name, name_length) = match index {
            0 => {
                let (name, length) = reader.text()?;
                (Some(name), length)
            }
            _ => match self.entry(index)?.and_then(|entry| entry.name) {
                Some(name) => (Some(name.clone()), name.len()),
                None => (None, 0),
            },
        };
        let (value, value_length) = reader.text()?;
        let field = HpackField { name, value: Some(value) };
        if is_inserted {
            let size = name_length.saturating_add(value_length).saturating_add(table::OVERHEAD);
            self.table.insert(Entry { field: field.clone(), size });
        }
        Ok(field)
    }

    /// The entry at an index of both tables. None if it is unknown.
    fn entry(&self, index: usize) -> Result<Option<HpackField>, Malformed> {
        let Some(position) = index.checked_sub(1) else { return Err(Malformed("the index 0")) };
        if let Some((name, value)) = static_table::entry(position) {
            return Ok(Some(HpackField { name: Some(name), value: Some(value) }));
        }
        Ok(self.table.get(position.saturating_sub(static_table::LENGTH)).cloned())
    }
}

/// Reads the parts of an encoded list.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed("it is cut off"))?;
        self.rest = rest;
        Ok(byte)
    }

    /// An integer that begins in the last `bits` bits of a byte.
    fn integer(&mut self, bits: u32) -> Result<usize, Malformed> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21, 28] {
            let byte = usize::from(self.byte()?);
            value = value.saturating_add((byte & 0x7f) << shift);
            if value > MAX_INTEGER {
                break;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too large"))
    }

    /// A string, in which U+FFFD stands for what is not UTF-8, and its length in bytes.
    fn text(&mut self) -> Result<(Text, usize), Malformed> {
        let is_huffman = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (bytes, rest): (&'a [u8], _) =
            self.rest.split_at_checked(length).ok_or(Malformed("a string is cut off"))?;
        self.rest = rest;
        if is_huffman {
            let decoded = huffman::decode(bytes).ok_or(Malformed("a string is no Huffman code"))?;
            return Ok((String::from_utf8_lossy(&decoded).into(), decoded.len()));
        }
        Ok((String::from_utf8_lossy(bytes).into(), bytes.len()))
    }
}

#[cfg(test)]
mod tests;
