//! Snappy without frames (<https://github.com/google/snappy/blob/main/format_description.txt>).

/// Decompresses. None if the input is damaged, or expands to more than `limit` bytes.
pub(super) fn decompress(input: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (length, mut rest) = varint(input)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
    let mut out = Vec::with_capacity(length);
    while let Some((&tag, after)) = rest.split_first() {
        let kind = tag & 3;
        let size = usize::from(tag >> 2);
        if kind == 0 {
            let (size, after) = literal(size, after)?;
            let (text, after) = after.split_at_checked(size)?;
            out.extend_from_slice(text);
            rest = after;
        } else {
            let (size, bytes) = match kind {
                1 => ((size & 7) + 4, 1),
                2 => (size + 1, 2),
                _ => (size + 1, 4),
            };
            let (offset, after) = after.split_at_checked(bytes)?;
            let offset = offset.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            let offset = if kind == 1 { offset | usize::from(tag >> 5) << 8 } else { offset };
            copy(&mut out, offset, size)?;
            rest = after;
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

/// The length of a literal, and what follows that.
fn literal(size: usize, after: &[u8]) -> Option<(usize, &[u8])> {
    let Some(bytes) = size.checked_sub(59).filter(|bytes| *bytes > 0) else { return Some((size + 1, after)) };
    let (length, after) = after.split_at_checked(bytes)?;
    let length = length.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    Some((length.checked_add(1)?, after))
}

/// Repeats bytes of the output. They may reach into what they make.
fn copy(out: &mut Vec<u8>, offset: usize, size: usize) -> Option<()> {
    let start = out.len().checked_sub(offset).filter(|_| offset > 0)?;
    for index in start..start + size {
        let byte = *out.get(index)?;
        out.push(byte);
    }
    Some(())
}

/// A number of 32 bits, seven of them in each byte.
fn varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in input.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, input.get(index + 1..)?));
        }
    }
    None
}
