//! MongoDB, and what speaks its protocol: FerretDB, DocumentDB, Cosmos DB.
//!
//! Owns the decoder of one connection. A response names the request that it answers by a number. Documents
//! are read as they come ([`bson`]), so that results of any size are passed over; only compressed messages
//! are held until they are complete.

mod body;
mod bson;
mod command;
mod decoder;
mod detect;
mod header;
mod reply;
mod snappy;

use super::database;
use super::{Message, Protocol};
use crate::event::{Field, FieldKind, Overview};

/// Why a message is not read.
const NOT_DECODED: Field = Field {
    path: "mongodb.message.not_decoded",
    help: "Why the contents of a message are not known: it is compressed by `snappy`, `zlib` or `zstd`, and too \
           long or damaged",
    kind: FieldKind::Text,
};

/// MongoDB.
pub(super) const MONGODB: Protocol = Protocol {
    name: "mongodb",
    help: "MongoDB",
    ports: &[27017, 27018, 27019],
    fields: FIELDS,
    has_exchanges: true,
    overview,
    detect: detect::detect,
    open: |hints| Box::new(decoder::MongoDecoder::new(hints)),
};

const FIELDS: &[Field] = &[
    database::SYSTEM,
    database::NAMESPACE,
    database::OPERATION,
    database::COLLECTION,
    database::QUERY,
    database::BATCH,
    database::STATUS,
    database::STATUS_MESSAGE,
    database::RETURNED_ROWS,
    database::AFFECTED_ROWS,
    database::ERROR_TYPE,
    NOT_DECODED,
];

fn overview(request: Option<&Message>, response: Option<&Message>) -> Overview {
    database::overview("MongoDB", request, response)
}

#[cfg(test)]
mod tests;
