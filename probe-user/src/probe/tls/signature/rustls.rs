//! rustls without symbols, from 0.23 on.
//!
//! Encrypting a record may panic, and the panic location names `record_layer.rs`: this leads to the sending
//! functions. The receiving function is found by the data layout that both share: a connection has its queue
//! of received data directly next to its queue of data to send, and only one function puts its argument into
//! the former.

mod handlers;

use std::collections::BTreeMap;

use super::{Answer, Confidence, SignatureMatch};
use crate::elf::{
    AbstractValue, CallArguments, Callee, Effect, Flow, FunctionBounds, FunctionTable, Object, ObjectError,
    Pointers, Symbol, VirtAddr,
};
use crate::probe::tls::rustls::{API, BEGINS, BUFFERS, HANDLES, RECEIVES, SENDS};
use crate::probe::tls::version;
use handlers::is_beside;
pub(in crate::probe::tls) use handlers::mark_of_data;

/// The source file, in any directory of the crate.
const FILE: &str = "/src/record_layer.rs";
const CRATE: &str = "rustls";

/// Limit of the functions that are analysed for one question.
const MAX_FUNCTIONS: usize = 256;

/// How many callers, such as `send_single_fragment`, may be between the function that encrypts and the one
/// that sends.
const MAX_LEVELS: usize = 2;

/// How many functions, such as `ChunkVecBuffer::append`, may be between the one that fills a queue and
/// `VecDeque::push_back`.
const MAX_APPENDING: usize = 2;
/// Size of a `ChunkVecBuffer`; its queue is somewhere inside.
const BUFFER_BYTES: i64 = 0x38;

/// The offset of `MessageEncrypter::encrypt` in the vtable, after destructor, size and alignment.
const ENCRYPT: u64 = 0x18;
/// `ContentType::ApplicationData` and `ProtocolVersion::TLSv1_2` as in memory: the value, and its sizes, with
/// or without the padding after it.
const APPLICATION_DATA: (u64, [usize; 2]) = (3, [1, 2]);
const VERSION: (u64, [usize; 2]) = (4, [2, 4]);
/// The offsets of the words of an `OutboundChunks`, a `Payload`, and a `VecDeque`.
const CHUNKS: [i64; 4] = [0, 8, 16, 24];
const PAYLOAD: [i64; 3] = [0, 8, 16];
const DEQUE: [i64; 4] = [0, 8, 16, 24];
/// The size of a `ChunkVecBuffer`, which has one more field since 0.23.19.
const BUFFER: [u64; 2] = [0x30, 0x38];

/// The connection as the first argument.
const CONNECTION: Option<AbstractValue> = Some(AbstractValue::Argument(0, 0));

/// The object that is searched.
struct Search<'o> {
    object: &'o Object,
    frames: FunctionTable<'o>,
    pointers: Pointers<'o>,
}

/// A function that grows a queue, and the offset of the queue in the connection.
type Queue = (VirtAddr, i64);

/// Finds the functions of each version of rustls in the object.
pub(super) fn locate(object: &Object) -> Result<Vec<SignatureMatch>, ObjectError> {
    let Some((locations, pointers)) = object.locations(FILE)? else { return Ok(Vec::new()) };
    let mut versions: BTreeMap<String, Vec<VirtAddr>> = BTreeMap::new();
    for location in locations {
        if let Some(version) = crate_version(&location.path, FILE) {
            versions.entry(version).or_default().push(location.address);
        }
    }
    let search = Search { object, frames: object.frames()?, pointers };
    let mut found = Vec::new();
    for (version, places) in versions {
        let version = Some(version).filter(|version| !version.is_empty());
        if let Answer::Located(located) = search.one(version, &places)? {
            found.push(located);
        }
    }
    Ok(found)
}

/// The version of the crate whose file this path names. Empty if the path has none; None for another crate.
fn crate_version(path: &str, file: &str) -> Option<String> {
    let directory = path.strip_suffix(file)?.rsplit(['/', '\\']).next()?;
    match directory.strip_prefix(CRATE)? {
        "" => Some(String::new()),
        rest => version::number(rest.strip_prefix('-')?.as_bytes()).map(|(version, _)| version),
    }
}

impl Search<'_> {
    fn one(&self, version: Option<String>, places: &[VirtAddr]) -> Result<Answer, ObjectError> {
        let encrypting = self.encrypting(places)?;
        let mut senders: Vec<&Flow> = Vec::new();
        for found in &encrypting {
            if self.sends(found)? {
                senders.push(&found.0);
            }
        }
        let mut functions = Vec::new();
        let mut mark = None;
        let missing = match senders.as_slice() {
            [sender] => {
                functions
                    .push((if sender.read_of(2).next().is_some() { BUFFERS } else { SENDS }, symbol(sender)));
                let queues = self.queues(sender)?;
                let around = self.around(&queues)?;
                let receivers = self.receivers(&queues, &around)?;
                let handlers = self.handlers(&queues, around, &receivers, version.as_deref())?;
                functions.extend(self.begins(sender, &encrypting)?.map(|begins| (BEGINS, symbol(&begins))));
                match (receivers.as_slice(), handlers) {
                    (_, Err(missing)) => Some(missing),
                    ([receiver], Ok(None)) => {
                        functions.push((RECEIVES, symbol(receiver)));
                        None
                    }
                    ([] | [_], Ok(Some(handlers))) => {
                        functions.extend(receivers.iter().map(|receiver| (RECEIVES, symbol(receiver))));
                        functions.extend(handlers.functions.iter().map(|handler| (HANDLES, symbol(handler))));
                        mark = Some(handlers.mark);
                        None
                    }
                    _ => Some(
                        "receiving functions: expected one function that fills the queue next to the one for \
                         sent data",
                    ),
                }
            }
            _ => Some(
                "sending function: expected one function that makes application data records from its \
                 argument",
            ),
        };
        let received = if mark.is_some() { "the data of messages" } else { "what they are given" };
        let why = missing.map_or_else(
            || {
                format!(
                    "the sending function is the only one that makes application data records from the \
                     chunks that it is given and encrypts them with the connection's encrypter \
                     (record_layer.rs); the receiving functions are the only ones that put {received} into the \
                     queue next to the one that the sender fills"
                )
            },
            str::to_owned,
        );
        let certainty = if missing.is_none() { Confidence::High } else { Confidence::Low };
        Ok(Answer::Located(SignatureMatch {
            api: API,
            implementation: API,
            version,
            functions,
            certain: Vec::new(),
            mark,
            why,
            certainty,
        }))
    }

    /// The functions that encrypt with an encrypter that one of their arguments owns, or pass that argument
    /// on to such a function; each with the index of the argument.
    fn encrypting(&self, places: &[VirtAddr]) -> Result<Vec<(Flow, u8)>, ObjectError> {
        let takers = self.flows(self.object.address_takers(places)?)?;
        let mut encrypting: Vec<(Flow, u8)> =
            takers.into_iter().filter_map(|flow| encrypts(&flow).map(|owner| (flow, owner))).collect();
        let mut next: Vec<VirtAddr> = encrypting.iter().map(|(flow, _)| flow.address).collect();
        for _ in 0..MAX_LEVELS {
            let mut is_found = false;
            for found in &encrypting {
                is_found = is_found || self.sends(found)?;
            }
            if is_found {
                break;
            }
            let mut around = self.callers(&next)?;
            around.retain(|flow| !encrypting.iter().any(|(other, _)| other.address == flow.address));
            let around = around.into_iter().filter_map(|flow| {
                let owner = flow.calls().find_map(|call| self.hands_on(call, &encrypting))?;
                Some((flow, owner))
            });
            let around: Vec<(Flow, u8)> = around.collect();
            next = around.iter().map(|(flow, _)| flow.address).collect();
            encrypting.extend(around);
        }
        Ok(encrypting)
    }

    /// The index of the argument that a call passes on to an encrypting function as the owner of the
    /// encrypter.
    fn hands_on(
        &self,
        CallArguments { callee, first, second, third: _ }: CallArguments,
        encrypting: &[(Flow, u8)],
    ) -> Option<u8> {
        let callee = self.leads_to(callee)?;
        let (_, owner) = encrypting.iter().find(|(flow, _)| flow.address == callee)?;
        match if *owner == 0 { first } else { second } {
            Some(AbstractValue::Argument(argument, offset)) if argument <= 1 && offset >= 0 => Some(argument),
            _ => None,
        }
    }

    /// Whether a function makes application data records from its second argument; its first is the
    /// connection.
    fn sends(&self, (flow, owner): &(Flow, u8)) -> Result<bool, ObjectError> {
        Ok(*owner == 0 && makes_records(flow) && self.takes(flow, &CHUNKS)?)
    }

    /// Whether a function reads exactly these words of its second argument, itself or in a function to which
    /// it passes the argument.
    fn takes(&self, flow: &Flow, words: &[i64]) -> Result<bool, ObjectError> {
        if flow.read_of(1).any(|word| !words.contains(&word)) {
            return Ok(false);
        }
        if reads_exactly(flow, 1, words) {
            return Ok(true);
        }
        let argument = Some(AbstractValue::Argument(1, 0));
        for call in flow.calls().filter(|call| call.first == argument || call.second == argument) {
            let callee = self.leads_to(call.callee).into_iter().collect();
            let number = u8::from(call.first != argument);
            if self.flows(callee)?.iter().any(|callee| reads_exactly(callee, number, words)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The functions that call one that grows one of the queues.
    fn around(&self, queues: &[Queue]) -> Result<Vec<Flow>, ObjectError> {
        let mut growers: Vec<VirtAddr> = queues.iter().map(|(grower, _)| *grower).collect();
        growers.dedup();
        self.callers(&growers)
    }

    /// The functions that put their argument into the queue of received data.
    fn receivers(&self, queues: &[Queue], around: &[Flow]) -> Result<Vec<Flow>, ObjectError> {
        let mut receivers: Vec<Flow> = Vec::new();
        let mut around = around.to_vec();
        for _ in 0..=MAX_APPENDING {
            let mut appending = Vec::new();
            for flow in around {
                if self.appended(&flow, MAX_APPENDING)?.is_some() {
                    appending.push(flow.address);
                }
                let fills = self.own_queues(&flow)?.iter().any(|queue| is_beside(queues, *queue));
                let is_new = receivers.iter().all(|other| other.address != flow.address);
                if is_new && fills && self.takes(&flow, &PAYLOAD)? {
                    receivers.push(flow);
                }
            }
            around = self.callers(&appending)?;
        }
        Ok(receivers)
    }

    /// The queue in the first argument of a function that puts its second argument into it:
    /// `VecDeque::push_back`, and `ChunkVecBuffer::append`, which calls it.
    fn appended(&self, flow: &Flow, levels: usize) -> Result<Option<Queue>, ObjectError> {
        for call in flow.calls() {
            let Some(AbstractValue::Argument(0, offset @ 0..BUFFER_BYTES)) = call.first else { continue };
            let Some(callee) = self.leads_to(call.callee) else { continue };
            if DEQUE.iter().all(|word| flow.reads(0, offset + word)) {
                return Ok(Some((callee, offset)));
            }
            let Some(left) = levels.checked_sub(1) else { continue };
            if call.second != Some(AbstractValue::Argument(1, 0)) {
                continue;
            }
            for inner in self.flows(vec![callee])?.iter().filter(|inner| inner.address == callee) {
                if let Some((grower, inner)) = self.appended(inner, left)? {
                    return Ok(Some((grower, offset + inner)));
                }
            }
        }
        Ok(None)
    }

    /// The queues that a sender fills, directly or in functions to which it passes the connection.
    fn queues(&self, sender: &Flow) -> Result<Vec<Queue>, ObjectError> {
        let mut queues = self.own_queues(sender)?;
        let mut visited = vec![sender.address];
        let mut next: Vec<Flow> = vec![sender.clone()];
        for _ in 0..2 {
            let mut callees: Vec<VirtAddr> = Vec::new();
            for call in next.iter().flat_map(Flow::calls) {
                let callee = if call.first == CONNECTION { self.leads_to(call.callee) } else { None };
                callees
                    .extend(callee.filter(|callee| !visited.contains(callee) && !callees.contains(callee)));
            }
            visited.extend(&callees);
            next = self.flows(callees)?;
            for flow in &next {
                queues.extend(self.own_queues(flow)?);
            }
        }
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    /// The queues of the connection, its first argument, that a function fills, directly or by a function
    /// that appends to a queue.
    fn own_queues(&self, flow: &Flow) -> Result<Vec<Queue>, ObjectError> {
        let mut queues = Vec::new();
        for call in flow.calls() {
            let Some(AbstractValue::Argument(0, offset @ 1..)) = call.first else { continue };
            let Some(callee) = self.leads_to(call.callee) else { continue };
            if DEQUE.iter().all(|word| flow.reads(0, offset.saturating_add(*word))) {
                queues.push((callee, offset));
                continue;
            }
            for appending in self.flows(vec![callee])?.iter().filter(|flow| flow.address == callee) {
                let queue = self.appended(appending, MAX_APPENDING)?;
                queues.extend(queue.map(|(grower, inner)| (grower, offset.saturating_add(inner))));
            }
        }
        Ok(queues)
    }

    /// The function that allows data to be sent: it sets a flag that the others read, and then sends the data
    /// that has waited. None unless there is exactly one.
    fn begins(&self, sender: &Flow, encrypting: &[(Flow, u8)]) -> Result<Option<Flow>, ObjectError> {
        let callers = self.callers(&[sender.address])?;
        let encrypting = || encrypting.iter().map(|(flow, _)| flow);
        let others = || encrypting().filter(|flow| flow.address != sender.address).chain(&callers);
        let begins = |flow: &&Flow| {
            flow.effects.iter().any(|effect| match effect {
                Effect::Writes { argument: 0, offset, number: 1, bytes: 1 } => {
                    let asks = |other: &Flow| other.address != flow.address && other.reads(0, *offset);
                    asks(sender) || callers.iter().any(asks)
                }
                _ => false,
            })
        };
        let sends =
            |flow: &&Flow| makes_records(flow) || callers.iter().any(|other| other.address == flow.address);
        let mut found: Vec<&Flow> = others().filter(sends).filter(begins).collect();
        found.sort_by_key(|flow| flow.address);
        found.dedup_by_key(|flow| flow.address);
        Ok(match found.as_slice() {
            [begins] => Some((*begins).clone()),
            _ => None,
        })
    }

    /// The functions that call one of these.
    fn callers(&self, callees: &[VirtAddr]) -> Result<Vec<Flow>, ObjectError> {
        if callees.is_empty() {
            return Ok(Vec::new());
        }
        let addresses: Vec<u64> = callees.iter().map(|callee| callee.0).collect();
        let slots = self.pointers.to(&addresses)?;
        let mut flows = self.flows(self.frames.callers_of(callees, &slots)?)?;
        let is_it = |callee| self.leads_to(callee).is_some_and(|callee| callees.contains(&callee));
        flows.retain(|flow| flow.calls().any(|call| is_it(call.callee)));
        Ok(flows)
    }

    /// The analysed functions that contain these addresses.
    fn flows(&self, addresses: Vec<VirtAddr>) -> Result<Vec<Flow>, ObjectError> {
        let mut extents: Vec<FunctionBounds> = Vec::new();
        for address in addresses {
            extents.extend(self.frames.at(address)?);
        }
        extents.sort_unstable();
        extents.dedup();
        let extents = extents.into_iter().take(MAX_FUNCTIONS);
        extents.map(|extents| self.frames.flow(extents)).collect()
    }

    fn leads_to(&self, callee: Callee) -> Option<VirtAddr> {
        match callee {
            Callee::Function(address) => Some(address),
            Callee::Slot(slot) => self.pointers.at(slot).ok().flatten().map(VirtAddr),
            Callee::Method(..) | Callee::Unknown => None,
        }
    }
}

/// The index of the argument that owns an object whose first method the function calls, if it calls one. The
/// index may be 1, because a function that returns a structure gets its address as the first argument.
fn encrypts(flow: &Flow) -> Option<u8> {
    flow.calls().find_map(|call| match (call.callee, call.second) {
        (Callee::Method(argument @ 0..=1, table, ENCRYPT), Some(AbstractValue::Loaded(owner, data)))
            if owner == argument && data.checked_add(8) == Some(table) =>
        {
            Some(owner)
        }
        _ => None,
    })
}

/// Whether a function makes application data records: it stores type and version next to each other.
fn makes_records(flow: &Flow) -> bool {
    let stored = |(wanted, sizes): (u64, [usize; 2])| {
        flow.effects.iter().filter_map(move |effect| match effect {
            Effect::Keeps { offset, number, bytes } if *number == wanted && sizes.contains(bytes) => {
                Some(*offset)
            }
            _ => None,
        })
    };
    stored(APPLICATION_DATA)
        .any(|kind| stored(VERSION).any(|version| matches!(version.abs_diff(kind), 2 | 4)))
}

/// Whether a function reads exactly these words of what an argument points to.
fn reads_exactly(flow: &Flow, argument: u8, words: &[i64]) -> bool {
    words.iter().all(|word| flow.reads(argument, *word))
        && flow.read_of(argument).all(|word| words.contains(&word))
}

fn symbol(flow: &Flow) -> Symbol {
    Symbol { address: flow.address, size: flow.size }
}

#[cfg(test)]
mod tests;
