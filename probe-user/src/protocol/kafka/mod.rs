//! Kafka, and what speaks its protocol: Redpanda, WarpStream, Event Hubs.
//!
//! Owns the decoder of one connection. Requests and responses have a number in common. A message is read as
//! it comes ([`walk`]), by a table of where in it topics, groups, errors and records are ([`api`]), so that
//! records of any size are passed over.

mod api;
mod contents;
mod decoder;
mod detect;
mod header;
mod walk;

use super::{Message, Protocol};
use crate::event::{Field, FieldKind, FieldValue, Outcome, Overview};

const SYSTEM: Field =
    Field { path: "messaging.system", help: "The messaging system: `kafka`", kind: FieldKind::Text };
const OPERATION: Field = Field {
    path: "messaging.operation.name",
    help: "What is asked for, by Kafka's name: `Produce`, `Fetch`, `Metadata`",
    kind: FieldKind::Text,
};
const TOPIC: Field = Field {
    path: "messaging.destination.name",
    help: "The topic, if it is one. Newer requests only have its id, which is only known if the connection asked \
           for it before",
    kind: FieldKind::Text,
};
const TOPICS: Field =
    Field { path: "kafka.topics", help: "The topics, if they are several", kind: FieldKind::List };
const GROUP: Field =
    Field { path: "messaging.consumer.group.name", help: "The group of consumers", kind: FieldKind::Text };
const CLIENT: Field =
    Field { path: "messaging.client.id", help: "What the client calls itself", kind: FieldKind::Text };
const COUNT: Field = Field {
    path: "messaging.batch.message_count",
    help: "How many records are sent, or were fetched. Absent if they are compressed in an old form",
    kind: FieldKind::Number,
};
const RECORD_BYTES: Field = Field {
    path: "messaging.message.body.size",
    help: "The bytes of the records, as they are transferred",
    kind: FieldKind::Number,
};
const VERSION: Field =
    Field { path: "kafka.api.version", help: "The version of the request", kind: FieldKind::Number };
use super::http::ERROR_TYPE;

/// Kafka.
pub(super) const KAFKA: Protocol = Protocol {
    name: "kafka",
    help: "Kafka",
    ports: &[9092, 9093, 9094],
    fields: &[SYSTEM, OPERATION, TOPIC, TOPICS, GROUP, CLIENT, COUNT, RECORD_BYTES, VERSION, ERROR_TYPE],
    has_exchanges: true,
    overview,
    detect: detect::detect,
    open: |hints| Box::new(decoder::KafkaDecoder::new(hints)),
};

fn overview(request: Option<&Message>, response: Option<&Message>) -> Overview {
    let both = || request.into_iter().chain(response);
    let text = |field: &Field| both().find_map(|message| message.text(field)).map(str::to_owned);
    let topics = both().find_map(|message| match message.field(&TOPICS)? {
        FieldValue::List(topics) => Some(topics.join(",")),
        _ => None,
    });
    let error = response.and_then(|response| response.text(&ERROR_TYPE)).map(str::to_owned);
    Overview {
        protocol: "Kafka".into(),
        method: text(&OPERATION),
        target: text(&TOPIC).or(topics).or_else(|| text(&GROUP)),
        rows: both().find_map(|message| message.number(&COUNT)),
        outcome: match (response, error.as_deref()) {
            (None, _) => Outcome::Unknown,
            (Some(_), None) => Outcome::Success,
            // The client has to ask another broker.
            (_, Some("NOT_LEADER_OR_FOLLOWER" | "NOT_COORDINATOR" | "NOT_CONTROLLER")) => Outcome::Redirect,
            (_, Some(_)) => Outcome::ServerError,
        },
        status: error.or_else(|| response.map(|_| "OK".to_owned())),
        ..Overview::default()
    }
}

#[cfg(test)]
mod tests;
