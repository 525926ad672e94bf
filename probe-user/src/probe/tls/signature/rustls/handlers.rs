//! The receiving functions when the compiler has inlined `take_received_plaintext` into its callers: `handle`
//! of each `ExpectTraffic`, which gets every message, and puts the data of data messages into the
//! connection's queue.
//!
//! To prove that a function is one of these, its code is analysed once for each value that the first word of
//! a message may have, and it must reach the queue with exactly one of them. There must be as many such
//! functions as the program has sides and versions of TLS, because data of a missing one would be lost
//! without notice.

use probe_common::{MAX_MARK, message_mark};

use super::{BUFFER, BUFFER_BYTES, MAX_FUNCTIONS, PAYLOAD, Queue, Search, crate_version, reads_exactly};
use crate::elf::{AbstractValue, Assumption, CallArguments, Flow, Object, ObjectError, VirtAddr};

/// Indices of the arguments of `handle`: before them are the returned state and the handler itself.
const CONTEXT: u8 = 2;
const MESSAGE: u8 = 3;
/// The offsets of the words of a data `Message`: its mark, and a `Payload`.
const DATA: [i64; 4] = [0, 8, 16, 24];
/// How many functions, such as `ChunkVecBuffer::append`, may be between a handler and the one that grows its
/// queue.
const MAX_LEVELS: usize = 2;
/// Limit of the candidate handlers: two sides of a connection in two versions of TLS make four.
const MAX_HANDLERS: usize = 8;
/// Size limit of a handler, which is analysed many times.
const MAX_HANDLER: u64 = 16 * 1024;
/// First words of messages without a mark: capacities, and values that no message has.
const OTHERS: [u64; 9] =
    [0, 1, 24, 4096, 1 << 62, message_mark(MAX_MARK + 1), message_mark(32), u64::MAX - 1, u64::MAX];

/// Source files with panics that every program with a client, a server or TLS 1.2 contains.
const CLIENT: &str = "/src/client/hs.rs";
const SERVER: &str = "/src/server/hs.rs";
const TLS12: &str = "/src/tls12/mod.rs";

/// A function, the offset from its first argument of the queue that it fills, and the function that grows it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fills {
    function: VirtAddr,
    offset: i64,
    grower: VirtAddr,
}

/// The receiving functions.
pub(super) struct Handlers {
    pub functions: Vec<Flow>,
    /// The first word of a data message, as a [`message_mark`].
    pub mark: u8,
}

impl Search<'_> {
    /// The handlers that themselves fill the queue next to those for sent data. None if all handlers leave
    /// that to `receivers`.
    pub(super) fn handlers(
        &self,
        queues: &[Queue],
        around: Vec<Flow>,
        receivers: &[Flow],
        version: Option<&str>,
    ) -> Result<Result<Option<Handlers>, &'static str>, ObjectError> {
        let (fills, flows) = self.fillers(queues, around)?;
        if flows.is_empty() {
            return Ok(Ok(None));
        }
        if flows.len() > MAX_HANDLERS {
            return Ok(Err(
                "receiving functions: too many functions fill the queue next to the one for sent data",
            ));
        }
        let mut marks = Vec::new();
        for flow in &flows {
            let Some(mark) = self.mark(flow.address, |flow| Ok(self.receives(flow, &fills, queues)))? else {
                return Ok(Err(
                    "receiving functions: a function fills the queue next to the one for sent data, but not \
                     clearly with the data of messages",
                ));
            };
            marks.push(mark);
        }
        marks.dedup();
        let [mark] = marks.as_slice() else {
            return Ok(Err("receiving functions: its functions recognise data messages in different ways"));
        };
        let addresses: Vec<VirtAddr> = receivers.iter().map(|flow| flow.address).collect();
        let is_other = |flow: &&Flow| {
            let hands_on = |call: CallArguments| {
                call.first == Some(AbstractValue::Loaded(CONTEXT, 0))
                    && self.leads_to(call.callee).is_some_and(|callee| addresses.contains(&callee))
            };
            flow.calls().any(hands_on)
        };
        let others = self.callers(&addresses)?.iter().filter(is_other).count();
        if self.sides(version)? != Some(flows.len().saturating_add(others)) {
            return Ok(Err(
                "receiving functions: the number of functions does not match the sides and versions of \
                 TLS in the program",
            ));
        }
        Ok(Ok(Some(Handlers { functions: flows, mark: *mark })))
    }

    /// The functions that fill queues, and those that fill a queue of what their `Context` points to.
    fn fillers(
        &self,
        queues: &[Queue],
        mut around: Vec<Flow>,
    ) -> Result<(Vec<Fills>, Vec<Flow>), ObjectError> {
        let mut fills: Vec<Fills> = Vec::new();
        for (grower, _) in queues {
            let grows = Fills { function: *grower, offset: 0, grower: *grower };
            if !fills.contains(&grows) {
                fills.push(grows);
            }
        }
        let mut handlers: Vec<Flow> = Vec::new();
        for _ in 0..=MAX_LEVELS {
            let before = fills.len();
            for flow in around {
                let room = MAX_FUNCTIONS.saturating_sub(fills.len());
                let more = self.parts(&flow, &fills).filter(|more| !fills.contains(more));
                let more: Vec<Fills> = more.take(room).collect();
                fills.extend(more);
                let is_found = handlers.iter().any(|handler| handler.address == flow.address);
                if !is_found && self.receives(&flow, &fills, queues) {
                    handlers.push(flow);
                }
            }
            let new: Vec<VirtAddr> = fills.iter().skip(before).map(|fills| fills.function).collect();
            around = self.callers(&new)?;
        }
        handlers.sort_by_key(|flow| flow.address);
        Ok((fills, handlers))
    }

    /// The queues that a function fills in the buffer that is its first argument.
    fn parts<'f>(&'f self, flow: &'f Flow, fills: &'f [Fills]) -> impl Iterator<Item = Fills> + use<'f> {
        let calls = flow.calls().filter_map(|call| match call.first {
            Some(AbstractValue::Argument(0, offset)) if (0..BUFFER_BYTES).contains(&offset) => {
                Some((call, offset))
            }
            _ => None,
        });
        calls.flat_map(move |(call, offset)| {
            let inner = self.filled(call, fills).map(move |inner| Fills {
                function: flow.address,
                offset: inner.offset.saturating_add(offset),
                grower: inner.grower,
            });
            inner.filter(|fills| fills.offset < BUFFER_BYTES)
        })
    }

    /// The queues that the called function fills.
    fn filled<'f>(&self, call: CallArguments, fills: &'f [Fills]) -> impl Iterator<Item = Fills> + use<'f> {
        let callee = self.leads_to(call.callee);
        fills.iter().copied().filter(move |fills| Some(fills.function) == callee)
    }

    /// Whether a function fills the queue of received data of the connection that its `Context` points to.
    fn receives(&self, flow: &Flow, fills: &[Fills], queues: &[Queue]) -> bool {
        flow.calls().any(|call| {
            let offset = match call.first {
                Some(AbstractValue::Loaded(CONTEXT, 0)) => 0,
                Some(AbstractValue::Inside(CONTEXT, 0, offset)) => offset,
                _ => return false,
            };
            self.filled(call, fills)
                .any(|fills| is_beside(queues, (fills.grower, offset.saturating_add(fills.offset))))
        })
    }

    /// The mark with which a handler receives data, if it does so with exactly one.
    fn mark(
        &self,
        handler: VirtAddr,
        receives: impl Fn(&Flow) -> Result<bool, ObjectError>,
    ) -> Result<Option<u8>, ObjectError> {
        let extents = self.frames.at(handler)?;
        let Some(extents) = extents.filter(|found| found.address == handler && found.size <= MAX_HANDLER)
        else {
            return Ok(None);
        };
        let mut found = None;
        let marks = (0..=MAX_MARK).map(|mark| (Some(mark), message_mark(mark)));
        for (mark, word) in OTHERS.map(|word| (None, word)).into_iter().chain(marks) {
            let given = Assumption { argument: MESSAGE, offset: 0, word };
            let flow = self.frames.flow_given(extents, given)?;
            if !receives(&flow)? {
                continue;
            }
            if found.is_some() || mark.is_none() || !self.takes_payload(&flow)? {
                return Ok(None);
            }
            found = mark;
        }
        Ok(found)
    }

    /// Whether a handler uses the `Payload` of its message and nothing else of it, directly or in a function
    /// to which it passes the payload.
    fn takes_payload(&self, flow: &Flow) -> Result<bool, ObjectError> {
        if flow.read_of(MESSAGE).any(|word| !DATA.contains(&word)) {
            return Ok(false);
        }
        // The length of a copy must be what the last word says.
        let is_wrong = |call: CallArguments| match (call.second, call.third) {
            (Some(AbstractValue::Loaded(MESSAGE, address)), Some(AbstractValue::Loaded(MESSAGE, length))) => {
                !matches!((address, length), (8 | 16, 24))
            }
            _ => false,
        };
        if flow.calls().any(is_wrong) {
            return Ok(false);
        }
        if reads_exactly(flow, MESSAGE, &DATA) {
            return Ok(true);
        }
        for call in flow.calls() {
            let payload = Some(AbstractValue::Argument(MESSAGE, 8));
            let argument = u8::from(call.first != payload);
            let callee = if payload == call.first || payload == call.second {
                self.leads_to(call.callee)
            } else {
                None
            };
            if self
                .flows(callee.into_iter().collect())?
                .iter()
                .any(|flow| reads_exactly(flow, argument, &PAYLOAD))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many handlers the program has: each of its sides has one for each version of TLS. None if that
    /// cannot be determined.
    fn sides(&self, version: Option<&str>) -> Result<Option<usize>, ObjectError> {
        let has = |file: &str| -> Result<bool, ObjectError> {
            let Some((locations, _)) = self.object.locations(file)? else { return Ok(false) };
            let mut versions = locations.iter().filter_map(|location| crate_version(&location.path, file));
            Ok(versions.any(|found| version == Some(found.as_str())))
        };
        let sides = usize::from(has(CLIENT)?).saturating_add(usize::from(has(SERVER)?));
        let versions = usize::from(has(TLS12)?).saturating_add(1);
        Ok((sides > 0).then(|| sides.saturating_mul(versions)))
    }
}

/// The mark of data messages, from the code of all handlers, which symbols name. With this mark alone, a
/// handler uses the `Payload` after it and passes a part of the connection to what it calls.
pub(in crate::probe::tls) fn mark_of_data(
    object: &Object,
    handlers: &[VirtAddr],
) -> Result<Option<u8>, ObjectError> {
    let search = Search { object, frames: object.frames()?, pointers: object.pointers()? };
    let has_part = |call: CallArguments| matches!(call.first, Some(AbstractValue::Inside(CONTEXT, 0, offset)) if offset > 0);
    let receives = |flow: &Flow| Ok(flow.calls().any(has_part) && search.takes_payload(flow)?);
    let mut marks = Vec::new();
    for handler in handlers.iter().take(MAX_HANDLERS) {
        marks.push(search.mark(*handler, receives)?);
    }
    marks.dedup();
    match marks.as_slice() {
        [mark] if handlers.len() <= MAX_HANDLERS => Ok(*mark),
        _ => Ok(None),
    }
}

/// Whether a queue is directly next to one for sent data.
pub(super) fn is_beside(queues: &[Queue], (grower, offset): Queue) -> bool {
    queues.iter().any(|(other, sent)| *other == grower && BUFFER.contains(&sent.abs_diff(offset)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]
mod tests;
