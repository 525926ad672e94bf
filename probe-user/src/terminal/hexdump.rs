//! Bytes → a hex dump: offset, sixteen bytes, the same in ASCII.
//!
//! Owns the layout. The output contains nothing but printable ASCII.

use std::fmt::Write as _;

/// The number of bytes per line.
const WIDTH: usize = 16;

/// Appends the dump. Each line ends with a line end. `offset` is that of the first byte.
pub(crate) fn hex(bytes: &[u8], offset: u32, out: &mut String) {
    for (line, at) in bytes.chunks(WIDTH).zip((u64::from(offset)..).step_by(WIDTH)) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{at:08x} ");
        for column in 0..WIDTH {
            out.push_str(if column == WIDTH / 2 { "  " } else { " " });
            match line.get(column) {
                Some(byte) => {
                    out.push(digit(byte >> 4));
                    out.push(digit(byte & 15));
                }
                None => out.push_str("  "),
            }
        }
        out.push_str("  |");
        out.extend(line.iter().map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '.' }));
        out.push_str("|\n");
    }
}

fn digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], offset: u32, expected: &str) {
        let mut out = String::new();
        hex(bytes, offset, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn dumps() {
        check(b"", 0, "");
        check(
            b"\x16\x03\x01 hi\x1b",
            0,
            "00000000  16 03 01 20 68 69 1b                              |... hi.|\n",
        );
        check(
            b"0123456789abcdefg",
            16384,
            "00004000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
             00004010  67                                                |g|\n",
        );
    }
}
