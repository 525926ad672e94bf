//! Arguments that could not be read when a function was called, because what they point to was not in
//! memory yet: their bytes from the file, if it is a file's.

use probe_common::{ArgumentSpec, CAPTURE_BYTES, CAPTURE_STRING, FunctionEvent, KIND_FUNCTION_ENTER};

use super::calls::ProbedFunction;
use crate::decode::FunctionRecord;
use crate::pipeline::{ProcessInfo, UnreadBytes};

/// A record with what was not in memory.
pub(in crate::pipeline) struct CompletedRecord {
    head: FunctionEvent,
    packed: Vec<u8>,
}

impl CompletedRecord {
    pub(in crate::pipeline) fn record(&self) -> FunctionRecord<'_> {
        FunctionRecord::kept(&self.head, &self.packed)
    }
}

/// Reads what a record lacks. None if it lacks nothing.
pub(in crate::pipeline) fn complete(
    record: &FunctionRecord<'_>,
    place: &ProbedFunction,
    info: &mut dyn ProcessInfo,
) -> Option<CompletedRecord> {
    if record.head.faults == 0 {
        return None;
    }
    let spec = &place.reading.spec;
    let list = match record.head.header.kind {
        KIND_FUNCTION_ENTER => spec.list.as_slice(),
        _ => std::slice::from_ref(&spec.returned),
    };
    let mut completed = CompletedRecord { head: *record.head, packed: Vec::new() };
    let capturing =
        list.iter().enumerate().filter(|(_, argument)| argument.capture != probe_common::CAPTURE_NONE);
    for (number, (index, argument)) in capturing.enumerate() {
        if let Some(bytes) = record.captured(index, number) {
            completed.packed.extend_from_slice(&bytes.0);
            continue;
        }
        let Some((bytes, is_cut)) = from_file(record.head, index, argument, place, info) else { continue };
        let Some(length) = completed.head.lengths.get_mut(index) else { continue };
        *length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        completed.head.faults &= !(1 << index);
        completed.head.cut |= u32::from(is_cut) << index;
        completed.packed.extend(bytes);
    }
    Some(completed)
}

/// What an argument points to, and whether there is more of it than its limit.
fn from_file(
    head: &FunctionEvent,
    index: usize,
    argument: &ArgumentSpec,
    place: &ProbedFunction,
    info: &mut dyn ProcessInfo,
) -> Option<(Vec<u8>, bool)> {
    let address = head.values.get(index).copied().filter(|address| *address != 0)?;
    let wanted = match argument.capture {
        // One more than is reported reveals that a text was cut.
        CAPTURE_STRING => argument.limit.checked_sub(1)?,
        CAPTURE_BYTES => head.lengths.get(index).copied().filter(|length| *length != 0)?,
        _ => return None,
    };
    let wanted = usize::try_from(wanted).ok()?;
    let (pid, instruction, code) = (head.header.pid, head.instruction, place.object.path.as_str());
    let unread = UnreadBytes { pid, address, length: wanted, instruction, code };
    let mut bytes = info.unread(&unread)?;
    let whole = bytes.len() == wanted;
    if argument.capture == CAPTURE_BYTES {
        // The kernel has noted whether the length was beyond the limit.
        return whole.then_some((bytes, false));
    }
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => bytes.truncate(end),
        None if whole => bytes.truncate(wanted - 1),
        None => return None,
    }
    let is_cut = bytes.len() == wanted - 1 && whole;
    Some((bytes, is_cut))
}
