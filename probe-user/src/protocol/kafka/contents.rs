//! What messages are about: topics, groups, errors and records.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::api::{Meaning, error_name};
use super::walk::Found;
use super::{COUNT, GROUP, RECORD_BYTES, TOPIC, TOPICS};
use crate::event::FieldValue;
use crate::protocol::Message;
use crate::protocol::http::ERROR_TYPE;

/// The most topics of a message that are kept.
const MAX_TOPICS: usize = 64;
/// The longest name that topics can have.
const MAX_NAME: usize = 249;
/// The most topics of a connection whose ids are kept.
const MAX_IDS: usize = 4096;

/// The names of topics by their ids, as far as the connection has shown them.
pub(super) type TopicIds = LruCache<[u8; 16], String>;

pub(super) fn no_topic_ids() -> TopicIds {
    LruCache::new(NonZeroUsize::new(MAX_IDS).unwrap_or(NonZeroUsize::MIN))
}

/// What was found in a message.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Default)]
pub(super) struct Contents {
    topics: Vec<String>,
    /// Whether there are topics of which only the id is known.
    has_unknown_topic: bool,
    /// Whether there are more topics than are kept.
    has_more_topics: bool,
    group: Option<String>,
    is_no_group: bool,
    error: Option<i16>,
    pub(super) acks: Option<i16>,
    records: Option<u64>,
    has_unknown_records: bool,
    record_bytes: Option<u64>,
    /// The topic that was named last.
    last_topic: Option<String>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({} topics)", self.topics.len())
    }
}

impl Contents {
    /// Adds what was found.
    pub(super) fn add(&mut self, found: Found, ids: &mut TopicIds) {
        match found {
            Found::Text(Meaning::Topic, mut name) => {
                name.truncate(name.floor_char_boundary(MAX_NAME));
                self.last_topic = Some(name.clone());
                self.topic(name);
            }
            Found::Text(Meaning::Group, name) => self.group = self.group.take().or(Some(name)),
            Found::TopicId(Meaning::LastTopic, id) => {
                if let Some(name) = self.last_topic.take() {
                    ids.put(id, name);
                }
            }
            // A request may have either a name or an id.
            Found::TopicId(_, id) if id == [0; 16] => {}
            Found::TopicId(_, id) => match ids.get(&id) {
                Some(name) => self.topic(name.clone()),
                None => self.has_unknown_topic = true,
            },
            Found::ErrorCode(code) => self.error = self.error.or(Some(code).filter(|code| *code != 0)),
            Found::Acks(acks) => self.acks = Some(acks),
            Found::KeyType(kind) => self.is_no_group = kind != 0,
            Found::RecordBytes(bytes) => {
                self.record_bytes = Some(self.record_bytes.unwrap_or(0).saturating_add(bytes));
            }
            Found::Records(Some(count)) => {
                self.records = Some(self.records.unwrap_or(0).saturating_add(count));
            }
            Found::Records(None) => self.has_unknown_records = true,
            Found::Text(..) => {}
        }
    }

    fn topic(&mut self, name: String) {
        if self.topics.contains(&name) {
            return;
        }
        if self.topics.len() < MAX_TOPICS {
            self.topics.push(name);
        } else {
            self.has_more_topics = true;
        }
    }

    /// Parts of the message were not read.
    pub(super) fn lose(&mut self) {
        self.has_unknown_records = true;
        self.has_unknown_topic = true;
    }

    /// Adds it to its message.
    pub(super) fn push(self, message: &mut Message) {
        let Self { topics, has_unknown_topic, has_more_topics, group, is_no_group, .. } = self;
        match topics.as_slice() {
            _ if has_unknown_topic => message.fields.push((&TOPIC, FieldValue::Unknown)),
            [] => {}
            [topic] => message.fields.push((&TOPIC, FieldValue::Text(topic.clone()))),
            _ => {
                let more = has_more_topics.then(|| "…".to_owned());
                message.fields.push((&TOPICS, FieldValue::List(topics.into_iter().chain(more).collect())));
            }
        }
        if let Some(group) = group.filter(|_| !is_no_group) {
            message.fields.push((&GROUP, FieldValue::Text(group)));
        }
        if let Some(bytes) = self.record_bytes {
            if !self.has_unknown_records {
                message.fields.push((&COUNT, FieldValue::Number(self.records.unwrap_or(0))));
            }
            message.fields.push((&RECORD_BYTES, FieldValue::Number(bytes)));
        }
        if let Some(error) = self.error.and_then(error_name) {
            message.fields.push((&ERROR_TYPE, FieldValue::Text(error)));
        }
    }

    pub(super) fn size(&self) -> usize {
        self.topics.iter().map(|topic| topic.len() + size_of::<String>()).sum()
    }
}
