//! The wire format: bytes → the numbers of fields and their values.

/// The largest number of a field.
const MAX_NUMBER: u64 = (1 << 29) - 1;
/// The deepest nesting of groups. Nobody nests them, since they are no longer used.
const MAX_GROUPS: usize = 16;

/// A field.
#[derive(Clone, Copy)]
pub(super) struct WireField<'a> {
    pub(super) number: u32,
    pub(super) value: WireValue<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum WireValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Group(&'a [u8]),
    Fixed32(u32),
    /// The beginning of bytes that were not kept as a whole.
    Cut(&'a [u8]),
}

/// Why there is no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoField {
    /// The bytes end early.
    Cut,
    /// They are no field.
    Malformed,
}

/// Removes the first field.
pub(super) fn field<'a>(rest: &mut &'a [u8]) -> Result<WireField<'a>, NoField> {
    nested_field(rest, 0)
}

/// All fields of a message.
pub(super) fn fields(data: &[u8]) -> Result<Vec<WireField<'_>>, NoField> {
    let mut fields = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        match field(&mut rest)? {
            WireField { value: WireValue::Cut(_), .. } => return Err(NoField::Cut),
            field => fields.push(field),
        }
    }
    Ok(fields)
}

fn nested_field<'a>(rest: &mut &'a [u8], groups: usize) -> Result<WireField<'a>, NoField> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).map_err(|_| NoField::Malformed)?;
    if number == 0 || u64::from(number) > MAX_NUMBER {
        return Err(NoField::Malformed);
    }
    let value = match key & 7 {
        0 => WireValue::Varint(varint(rest)?),
        1 => WireValue::Fixed64(u64::from_le_bytes(*array(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| NoField::Malformed)?;
            match rest.split_at_checked(length) {
                Some((bytes, after)) => {
                    *rest = after;
                    WireValue::Bytes(bytes)
                }
                None => WireValue::Cut(std::mem::take(rest)),
            }
        }
        3 if groups < MAX_GROUPS => WireValue::Group(group(rest, number, groups)?),
        5 => WireValue::Fixed32(u32::from_le_bytes(*array(rest)?)),
        _ => return Err(NoField::Malformed),
    };
    Ok(WireField { number, value })
}

/// Removes the rest of a group, whose fields it returns.
fn group<'a>(rest: &mut &'a [u8], number: u32, groups: usize) -> Result<&'a [u8], NoField> {
    let all = *rest;
    loop {
        let before = rest.len();
        let mut after = *rest;
        let key = varint(&mut after)?;
        if key & 7 == 4 {
            *rest = after;
            let is_own = key >> 3 == u64::from(number);
            let fields = all.get(..all.len().saturating_sub(before)).filter(|_| is_own);
            return fields.ok_or(NoField::Malformed);
        }
        if let WireValue::Cut(_) = nested_field(rest, groups + 1)?.value {
            return Err(NoField::Cut);
        }
    }
}

pub(super) fn array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], NoField> {
    let (array, after) = rest.split_first_chunk().ok_or(NoField::Cut)?;
    *rest = after;
    Ok(array)
}

pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, NoField> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(NoField::Cut)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(NoField::Malformed)
}

/// Appends a field of bytes.
pub(super) fn push_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    push_varint(u64::from(number) << 3 | 2, out);
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        // The last seven bits.
        let bits = value.to_le_bytes().first().map_or(0, |byte| byte & 0x7f);
        value >>= 7;
        if value == 0 {
            return out.push(bits);
        }
        out.push(bits | 0x80);
    }
}
