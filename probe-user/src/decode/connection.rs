//! Records about opened and closed connections.

use probe_common::{ConnectionClose, ConnectionOpen, END_SOCKET_CLOSED};

use super::{DataRecord, DecodeError, prefix};

pub(super) fn opened(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    prefix::<ConnectionOpen>(bytes).map(|(head, _)| DataRecord::Opened(head))
}

pub(super) fn closed(bytes: &[u8]) -> Result<DataRecord<'_>, DecodeError> {
    let (head, _) = prefix::<ConnectionClose>(bytes)?;
    if head.end == 0 || head.end > END_SOCKET_CLOSED {
        let (have, most) = (head.end.into(), END_SOCKET_CLOSED.into());
        return Err(DecodeError::Beyond { what: "the end of a connection", have, most });
    }
    Ok(DataRecord::Closed(head))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn ends_are_checked() {
        let mut head = ConnectionClose::new_zeroed();
        let mut check = |end| {
            head.end = end;
            closed(head.as_bytes()).map(|wire| matches!(wire, DataRecord::Closed(head) if head.end == end))
        };
        for end in 1..=END_SOCKET_CLOSED {
            assert_eq!(check(end), Ok(true));
        }
        for end in [0, END_SOCKET_CLOSED + 1, u32::MAX] {
            assert!(matches!(check(end), Err(DecodeError::Beyond { have, .. }) if have == u64::from(end)));
        }
        assert!(closed(head.as_bytes().get(..88).unwrap()).is_err());
        assert!(opened(head.as_bytes().get(..56).unwrap()).is_err());
        assert!(opened(head.as_bytes()).is_ok());
    }
}
