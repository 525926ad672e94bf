//! The kinds of requests, by the tables of <https://kafka.apache.org/protocol>: their names and versions, and
//! where in a message its topics, groups, errors and records are.

/// A kind of request.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) name: &'static str,
    /// The newest version that is known.
    pub(super) newest: i16,
    /// The first version in the compact form with tagged fields.
    flexible: i16,
    /// The parts of a request.
    pub(super) request: &'static [Part],
    /// The parts of a response.
    pub(super) response: &'static [Part],
}

/// A part of a message, in some versions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    from: i16,
    /// The first version that does not have it.
    until: i16,
    pub(super) what: What,
}

/// What a part is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// So many bytes that do not matter.
    Skip(u8),
    /// A text that may be null.
    Text(Meaning),
    /// Bytes that may be null.
    Bytes,
    /// The id of a topic.
    TopicId(Meaning),
    ErrorCode,
    /// How many brokers have to acknowledge records: a producer that asks for none gets no response.
    Acks,
    /// What a coordinator is searched for: 0 for a group.
    KeyType,
    /// Batches of records.
    Records,
    /// A list of groups of parts.
    Array(&'static [Part]),
    /// A list of values of so many bytes each.
    Numbers(u8),
    /// A list of texts.
    Texts(&'static [Part]),
    /// What follows does not matter.
    Rest,
}

/// How lengths are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// In a few bytes, and with tagged fields behind each group of parts.
    Flexible,
}

/// What a text or an id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    None,
    Topic,
    /// Of the topic that was named last.
    LastTopic,
    Group,
}

impl Part {
    /// Whether a version has it.
    pub(super) fn is_in(&self, version: i16) -> bool {
        version >= self.from && version < self.until
    }
}

const fn all(what: What) -> Part {
    Part { from: 0, until: i16::MAX, what }
}

const fn since(from: i16, what: What) -> Part {
    Part { from, until: i16::MAX, what }
}

const fn until(until: i16, what: What) -> Part {
    Part { from: 0, until, what }
}

const fn between(from: i16, until: i16, what: What) -> Part {
    Part { from, until, what }
}

use What::{Acks, Array, Bytes, ErrorCode, KeyType, Numbers, Records, Rest, Skip, Text, Texts, TopicId};

const TEXT: What = Text(Meaning::None);
const TOPIC: What = Text(Meaning::Topic);
const GROUP: What = Text(Meaning::Group);
const TOPICS: What = Texts(&[all(TOPIC)]);
const GROUPS: What = Texts(&[all(GROUP)]);
const TEXTS: What = Texts(&[all(TEXT)]);
const ID: What = TopicId(Meaning::Topic);
const REST: &[Part] = &[all(Rest)];
/// The response to what only fails as a whole.
const ERROR: &[Part] = &[all(ErrorCode), all(Rest)];
const THROTTLED_ERROR: &[Part] = &[all(Skip(4)), all(ErrorCode), all(Rest)];
const SINCE_1_THROTTLED_ERROR: &[Part] = &[since(1, Skip(4)), all(ErrorCode), all(Rest)];
const OF_GROUP: &[Part] = &[all(GROUP), all(Rest)];

const PRODUCE_REQUEST: &[Part] = &[
    since(3, TEXT),
    all(Acks),
    all(Skip(4)),
    all(Array(&[until(13, TOPIC), since(13, ID), all(Array(&[all(Skip(4)), all(Records)]))])),
];
const PRODUCE_RESPONSE: &[Part] = &[
    all(Array(&[
        until(13, TOPIC),
        since(13, ID),
        all(Array(&[
            all(Skip(4)),
            all(ErrorCode),
            all(Skip(8)),
            since(2, Skip(8)),
            since(5, Skip(8)),
            since(8, Array(&[all(Skip(4)), all(TEXT)])),
            since(8, TEXT),
        ])),
    ])),
    since(1, Skip(4)),
];
const FETCH_REQUEST: &[Part] = &[
    until(15, Skip(4)),
    all(Skip(8)),
    since(3, Skip(4)),
    since(4, Skip(1)),
    since(7, Skip(8)),
    all(Array(&[
        until(13, TOPIC),
        since(13, ID),
        all(Array(&[
            all(Skip(4)),
            since(9, Skip(4)),
            all(Skip(8)),
            since(12, Skip(4)),
            since(5, Skip(8)),
            all(Skip(4)),
        ])),
    ])),
    since(7, Array(&[until(13, TEXT), since(13, Skip(16)), all(Numbers(4))])),
    since(11, TEXT),
];
const FETCH_RESPONSE: &[Part] = &[
    since(1, Skip(4)),
    since(7, ErrorCode),
    since(7, Skip(4)),
    all(Array(&[
        until(13, TOPIC),
        since(13, ID),
        all(Array(&[
            all(Skip(4)),
            all(ErrorCode),
            all(Skip(8)),
            since(4, Skip(8)),
            since(5, Skip(8)),
            since(4, Array(&[all(Skip(16))])),
            since(11, Skip(4)),
            all(Records),
        ])),
    ])),
];
const LIST_OFFSETS_REQUEST: &[Part] = &[
    all(Skip(4)),
    since(2, Skip(1)),
    all(Array(&[
        all(TOPIC),
        all(Array(&[all(Skip(4)), since(4, Skip(4)), all(Skip(8)), until(1, Skip(4))])),
    ])),
    since(10, Skip(4)),
];
const LIST_OFFSETS_RESPONSE: &[Part] = &[
    since(2, Skip(4)),
    all(Array(&[
        all(TOPIC),
        all(Array(&[
            all(Skip(4)),
            all(ErrorCode),
            until(1, Numbers(8)),
            since(1, Skip(16)),
            since(4, Skip(4)),
        ])),
    ])),
];
const METADATA_REQUEST: &[Part] = &[
    all(Array(&[since(10, ID), all(TOPIC)])),
    since(4, Skip(1)),
    between(8, 11, Skip(1)),
    since(8, Skip(1)),
];
const METADATA_RESPONSE: &[Part] = &[
    since(3, Skip(4)),
    all(Array(&[all(Skip(4)), all(TEXT), all(Skip(4)), since(1, TEXT)])),
    since(2, TEXT),
    since(1, Skip(4)),
    all(Array(&[
        all(ErrorCode),
        all(TOPIC),
        since(10, TopicId(Meaning::LastTopic)),
        since(1, Skip(1)),
        all(Array(&[
            all(ErrorCode),
            all(Skip(8)),
            since(7, Skip(4)),
            all(Numbers(4)),
            all(Numbers(4)),
            since(5, Numbers(4)),
        ])),
        since(8, Skip(4)),
    ])),
    between(8, 11, Skip(4)),
    since(13, ErrorCode),
];
const OFFSET_COMMIT_REQUEST: &[Part] = &[
    all(GROUP),
    since(1, Skip(4)),
    since(1, TEXT),
    since(7, TEXT),
    between(2, 5, Skip(8)),
    all(Array(&[
        until(10, TOPIC),
        since(10, ID),
        all(Array(&[all(Skip(12)), since(6, Skip(4)), between(1, 2, Skip(8)), all(TEXT)])),
    ])),
];
const OFFSET_COMMIT_RESPONSE: &[Part] = &[
    since(3, Skip(4)),
    all(Array(&[until(10, TOPIC), since(10, ID), all(Array(&[all(Skip(4)), all(ErrorCode)]))])),
];
const OFFSET_FETCH_REQUEST: &[Part] = &[
    until(8, GROUP),
    until(8, Array(&[all(TOPIC), all(Numbers(4))])),
    since(
        8,
        Array(&[
            all(GROUP),
            since(9, TEXT),
            since(9, Skip(4)),
            all(Array(&[until(10, TOPIC), since(10, ID), all(Numbers(4))])),
        ]),
    ),
    since(7, Skip(1)),
];
const OFFSET_FETCH_RESPONSE: &[Part] = &[
    since(3, Skip(4)),
    until(
        8,
        Array(&[all(TOPIC), all(Array(&[all(Skip(12)), since(5, Skip(4)), all(TEXT), all(ErrorCode)]))]),
    ),
    between(2, 8, ErrorCode),
    since(
        8,
        Array(&[
            all(GROUP),
            all(Array(&[
                until(10, TOPIC),
                since(10, ID),
                all(Array(&[all(Skip(16)), all(TEXT), all(ErrorCode)])),
            ])),
            all(ErrorCode),
        ]),
    ),
];
const FIND_COORDINATOR_REQUEST: &[Part] = &[until(4, GROUP), since(1, KeyType), since(4, GROUPS)];
const FIND_COORDINATOR_RESPONSE: &[Part] = &[
    since(1, Skip(4)),
    until(4, ErrorCode),
    between(1, 4, TEXT),
    until(4, Skip(4)),
    until(4, TEXT),
    until(4, Skip(4)),
    since(4, Array(&[all(TEXT), all(Skip(4)), all(TEXT), all(Skip(4)), all(ErrorCode), all(TEXT)])),
];
const JOIN_GROUP_REQUEST: &[Part] = &[
    all(GROUP),
    all(Skip(4)),
    since(1, Skip(4)),
    all(TEXT),
    since(5, TEXT),
    all(TEXT),
    all(Array(&[all(TEXT), all(Bytes)])),
    since(8, TEXT),
];
const JOIN_GROUP_RESPONSE: &[Part] = &[since(2, Skip(4)), all(ErrorCode), all(Rest)];
const HEARTBEAT_REQUEST: &[Part] = &[all(GROUP), all(Skip(4)), all(TEXT), since(3, TEXT)];
const HEARTBEAT_RESPONSE: &[Part] = &[since(1, Skip(4)), all(ErrorCode)];
const DESCRIBE_GROUPS_REQUEST: &[Part] = &[all(GROUPS), since(3, Skip(1))];
const DESCRIBE_GROUPS_RESPONSE: &[Part] = &[
    since(1, Skip(4)),
    all(Array(&[
        all(ErrorCode),
        since(6, TEXT),
        all(TEXT),
        all(TEXT),
        all(TEXT),
        all(TEXT),
        all(Array(&[all(TEXT), since(4, TEXT), all(TEXT), all(TEXT), all(Bytes), all(Bytes)])),
        since(3, Skip(4)),
    ])),
];
const SASL_HANDSHAKE_REQUEST: &[Part] = &[all(TEXT)];
const SASL_HANDSHAKE_RESPONSE: &[Part] = &[all(ErrorCode), all(TEXTS)];
const SASL_AUTHENTICATE_REQUEST: &[Part] = &[all(Bytes)];
const SASL_AUTHENTICATE_RESPONSE: &[Part] = &[all(ErrorCode), all(TEXT), all(Bytes), since(1, Skip(8))];
const API_VERSIONS_REQUEST: &[Part] = &[since(3, TEXT), since(3, TEXT)];
const API_VERSIONS_RESPONSE: &[Part] = &[all(ErrorCode), all(Array(&[all(Skip(6))])), since(1, Skip(4))];
const CREATE_TOPICS_REQUEST: &[Part] = &[
    all(Array(&[
        all(TOPIC),
        all(Skip(6)),
        all(Array(&[all(Skip(4)), all(Numbers(4))])),
        all(Array(&[all(TEXT), all(TEXT)])),
    ])),
    all(Skip(4)),
    since(1, Skip(1)),
];
const CREATE_TOPICS_RESPONSE: &[Part] = &[
    since(2, Skip(4)),
    all(Array(&[
        all(TOPIC),
        since(7, TopicId(Meaning::LastTopic)),
        all(ErrorCode),
        since(1, TEXT),
        since(5, Skip(6)),
        since(5, Array(&[all(TEXT), all(TEXT), all(Skip(3))])),
    ])),
];
const DELETE_TOPICS_REQUEST: &[Part] =
    &[until(6, TOPICS), since(6, Array(&[all(TOPIC), all(ID)])), all(Skip(4))];
const DELETE_TOPICS_RESPONSE: &[Part] =
    &[since(1, Skip(4)), all(Array(&[all(TOPIC), since(6, Skip(16)), all(ErrorCode), since(5, TEXT)]))];
const INIT_PRODUCER_ID_RESPONSE: &[Part] = &[all(Skip(4)), all(ErrorCode), all(Skip(10))];
const ADD_OFFSETS_TO_TXN_REQUEST: &[Part] = &[all(TEXT), all(Skip(10)), all(GROUP)];
const ADD_OFFSETS_TO_TXN_RESPONSE: &[Part] = &[all(Skip(4)), all(ErrorCode)];
const TXN_OFFSET_COMMIT_REQUEST: &[Part] = &[all(TEXT), all(GROUP), all(Rest)];
const TXN_OFFSET_COMMIT_RESPONSE: &[Part] =
    &[all(Skip(4)), all(Array(&[all(TOPIC), all(Array(&[all(Skip(4)), all(ErrorCode)]))]))];
const DELETE_GROUPS_REQUEST: &[Part] = &[all(GROUPS)];
const DELETE_GROUPS_RESPONSE: &[Part] = &[all(Skip(4)), all(Array(&[all(TEXT), all(ErrorCode)]))];

/// The first flexible version of what has none.
const NEVER: i16 = i16::MAX;

/// The kinds by their numbers: name, newest version, first flexible version, request, response.
#[rustfmt::skip]
const APIS: &[Api] = &[
    api("Produce", 13, 9, PRODUCE_REQUEST, PRODUCE_RESPONSE),
    api("Fetch", 18, 12, FETCH_REQUEST, FETCH_RESPONSE),
    api("ListOffsets", 11, 6, LIST_OFFSETS_REQUEST, LIST_OFFSETS_RESPONSE),
    api("Metadata", 13, 9, METADATA_REQUEST, METADATA_RESPONSE),
    api("LeaderAndIsr", 7, 4, REST, REST),
    api("StopReplica", 4, 2, REST, REST),
    api("UpdateMetadata", 8, 6, REST, REST),
    api("ControlledShutdown", 3, 3, REST, ERROR),
    api("OffsetCommit", 10, 8, OFFSET_COMMIT_REQUEST, OFFSET_COMMIT_RESPONSE),
    api("OffsetFetch", 10, 6, OFFSET_FETCH_REQUEST, OFFSET_FETCH_RESPONSE),
    api("FindCoordinator", 6, 3, FIND_COORDINATOR_REQUEST, FIND_COORDINATOR_RESPONSE),
    api("JoinGroup", 9, 6, JOIN_GROUP_REQUEST, JOIN_GROUP_RESPONSE),
    api("Heartbeat", 4, 4, HEARTBEAT_REQUEST, HEARTBEAT_RESPONSE),
    api("LeaveGroup", 5, 4, OF_GROUP, SINCE_1_THROTTLED_ERROR),
    api("SyncGroup", 5, 4, OF_GROUP, SINCE_1_THROTTLED_ERROR),
    api("DescribeGroups", 6, 5, DESCRIBE_GROUPS_REQUEST, DESCRIBE_GROUPS_RESPONSE),
    api("ListGroups", 5, 3, REST, SINCE_1_THROTTLED_ERROR),
    api("SaslHandshake", 1, NEVER, SASL_HANDSHAKE_REQUEST, SASL_HANDSHAKE_RESPONSE),
    api("ApiVersions", 5, 3, API_VERSIONS_REQUEST, API_VERSIONS_RESPONSE),
    api("CreateTopics", 7, 5, CREATE_TOPICS_REQUEST, CREATE_TOPICS_RESPONSE),
    api("DeleteTopics", 6, 4, DELETE_TOPICS_REQUEST, DELETE_TOPICS_RESPONSE),
    api("DeleteRecords", 2, 2, REST, REST),
    api("InitProducerId", 6, 2, REST, INIT_PRODUCER_ID_RESPONSE),
    api("OffsetForLeaderEpoch", 4, 4, REST, REST),
    api("AddPartitionsToTxn", 5, 3, REST, REST),
    api("AddOffsetsToTxn", 4, 3, ADD_OFFSETS_TO_TXN_REQUEST, ADD_OFFSETS_TO_TXN_RESPONSE),
    api("EndTxn", 5, 3, REST, THROTTLED_ERROR),
    api("WriteTxnMarkers", 2, 1, REST, REST),
    api("TxnOffsetCommit", 5, 3, TXN_OFFSET_COMMIT_REQUEST, TXN_OFFSET_COMMIT_RESPONSE),
    api("DescribeAcls", 3, 2, REST, THROTTLED_ERROR),
    api("CreateAcls", 3, 2, REST, REST),
    api("DeleteAcls", 3, 2, REST, REST),
    api("DescribeConfigs", 4, 4, REST, REST),
    api("AlterConfigs", 2, 2, REST, REST),
    api("AlterReplicaLogDirs", 2, 2, REST, REST),
    api("DescribeLogDirs", 5, 2, REST, REST),
    api("SaslAuthenticate", 2, 2, SASL_AUTHENTICATE_REQUEST, SASL_AUTHENTICATE_RESPONSE),
    api("CreatePartitions", 3, 2, REST, REST),
    api("CreateDelegationToken", 3, 2, REST, ERROR),
    api("RenewDelegationToken", 2, 2, REST, ERROR),
    api("ExpireDelegationToken", 2, 2, REST, ERROR),
    api("DescribeDelegationToken", 3, 2, REST, ERROR),
    api("DeleteGroups", 2, 2, DELETE_GROUPS_REQUEST, DELETE_GROUPS_RESPONSE),
    api("ElectLeaders", 2, 2, REST, REST),
    api("IncrementalAlterConfigs", 1, 1, REST, REST),
    api("AlterPartitionReassignments", 1, 0, REST, REST),
    api("ListPartitionReassignments", 0, 0, REST, THROTTLED_ERROR),
    api("OffsetDelete", 0, NEVER, OF_GROUP, ERROR),
    api("DescribeClientQuotas", 1, 1, REST, THROTTLED_ERROR),
    api("AlterClientQuotas", 1, 1, REST, REST),
    api("DescribeUserScramCredentials", 0, 0, REST, THROTTLED_ERROR),
    api("AlterUserScramCredentials", 0, 0, REST, REST),
    api("Vote", 2, 0, REST, ERROR),
    api("BeginQuorumEpoch", 1, 1, REST, ERROR),
    api("EndQuorumEpoch", 1, 1, REST, ERROR),
    api("DescribeQuorum", 2, 0, REST, ERROR),
    api("AlterPartition", 3, 0, REST, THROTTLED_ERROR),
    api("UpdateFeatures", 2, 0, REST, THROTTLED_ERROR),
    api("Envelope", 0, 0, REST, REST),
    api("FetchSnapshot", 1, 0, REST, THROTTLED_ERROR),
    api("DescribeCluster", 2, 0, REST, THROTTLED_ERROR),
    api("DescribeProducers", 0, 0, REST, REST),
    api("BrokerRegistration", 4, 0, REST, THROTTLED_ERROR),
    api("BrokerHeartbeat", 1, 0, REST, THROTTLED_ERROR),
    api("UnregisterBroker", 0, 0, REST, THROTTLED_ERROR),
    api("DescribeTransactions", 0, 0, REST, REST),
    api("ListTransactions", 2, 0, REST, THROTTLED_ERROR),
    api("AllocateProducerIds", 0, 0, REST, THROTTLED_ERROR),
    api("ConsumerGroupHeartbeat", 1, 0, OF_GROUP, THROTTLED_ERROR),
    api("ConsumerGroupDescribe", 1, 0, DESCRIBED_GROUPS, REST),
    api("ControllerRegistration", 0, 0, REST, THROTTLED_ERROR),
    api("GetTelemetrySubscriptions", 0, 0, REST, THROTTLED_ERROR),
    api("PushTelemetry", 0, 0, REST, THROTTLED_ERROR),
    api("AssignReplicasToDirs", 0, 0, REST, THROTTLED_ERROR),
    api("ListConfigResources", 1, 0, REST, THROTTLED_ERROR),
    api("DescribeTopicPartitions", 0, 0, REST, REST),
    api("ShareGroupHeartbeat", 1, 0, OF_GROUP, THROTTLED_ERROR),
    api("ShareGroupDescribe", 1, 0, DESCRIBED_GROUPS, REST),
    api("ShareFetch", 2, 0, OF_GROUP, THROTTLED_ERROR),
    api("ShareAcknowledge", 2, 0, OF_GROUP, THROTTLED_ERROR),
    api("AddRaftVoter", 1, 0, REST, THROTTLED_ERROR),
    api("RemoveRaftVoter", 0, 0, REST, THROTTLED_ERROR),
    api("UpdateRaftVoter", 0, 0, REST, THROTTLED_ERROR),
    api("InitializeShareGroupState", 0, 0, OF_GROUP, REST),
    api("ReadShareGroupState", 0, 0, OF_GROUP, REST),
    api("WriteShareGroupState", 1, 0, OF_GROUP, REST),
    api("DeleteShareGroupState", 0, 0, OF_GROUP, REST),
    api("ReadShareGroupStateSummary", 1, 0, OF_GROUP, REST),
    api("StreamsGroupHeartbeat", 0, 0, OF_GROUP, THROTTLED_ERROR),
    api("StreamsGroupDescribe", 0, 0, DESCRIBED_GROUPS, REST),
    api("DescribeShareGroupOffsets", 1, 0, REST, REST),
    api("AlterShareGroupOffsets", 0, 0, OF_GROUP, THROTTLED_ERROR),
    api("DeleteShareGroupOffsets", 0, 0, OF_GROUP, THROTTLED_ERROR),
];

const DESCRIBED_GROUPS: &[Part] = &[all(GROUPS), all(Rest)];

/// The numbers of kinds that have a meaning of their own.
pub(super) const PRODUCE: i16 = 0;
pub(super) const CONTROLLED_SHUTDOWN: i16 = 7;
pub(super) const SASL_HANDSHAKE: i16 = 17;
pub(super) const API_VERSIONS: i16 = 18;

const fn api(
    name: &'static str,
    newest: i16,
    flexible: i16,
    request: &'static [Part],
    response: &'static [Part],
) -> Api {
    Api { name, newest, flexible, request, response }
}

/// The kind of a number.
pub(super) fn of_key(key: i16) -> Option<&'static Api> {
    APIS.get(usize::try_from(key).ok()?)
}

impl Api {
    /// The form of the messages of a version.
    pub(super) fn form(&self, version: i16) -> Form {
        if version >= self.flexible { Form::Flexible } else { Form::Plain }
    }
}

/// The names of errors by their numbers, from 1.
#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "OFFSET_OUT_OF_RANGE", "CORRUPT_MESSAGE", "UNKNOWN_TOPIC_OR_PARTITION", "INVALID_FETCH_SIZE",
    "LEADER_NOT_AVAILABLE", "NOT_LEADER_OR_FOLLOWER", "REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE", "MESSAGE_TOO_LARGE", "STALE_CONTROLLER_EPOCH", "OFFSET_METADATA_TOO_LARGE",
    "NETWORK_EXCEPTION", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR",
    "INVALID_TOPIC_EXCEPTION", "RECORD_LIST_TOO_LARGE", "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "INVALID_REQUIRED_ACKS", "ILLEGAL_GENERATION",
    "INCONSISTENT_GROUP_PROTOCOL", "INVALID_GROUP_ID", "UNKNOWN_MEMBER_ID", "INVALID_SESSION_TIMEOUT",
    "REBALANCE_IN_PROGRESS", "INVALID_COMMIT_OFFSET_SIZE", "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "INVALID_TIMESTAMP",
    "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE", "UNSUPPORTED_VERSION", "TOPIC_ALREADY_EXISTS",
    "INVALID_PARTITIONS", "INVALID_REPLICATION_FACTOR", "INVALID_REPLICA_ASSIGNMENT", "INVALID_CONFIG",
    "NOT_CONTROLLER", "INVALID_REQUEST", "UNSUPPORTED_FOR_MESSAGE_FORMAT", "POLICY_VIOLATION",
    "OUT_OF_ORDER_SEQUENCE_NUMBER", "DUPLICATE_SEQUENCE_NUMBER", "INVALID_PRODUCER_EPOCH",
    "INVALID_TXN_STATE", "INVALID_PRODUCER_ID_MAPPING", "INVALID_TRANSACTION_TIMEOUT",
    "CONCURRENT_TRANSACTIONS", "TRANSACTION_COORDINATOR_FENCED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    "SECURITY_DISABLED", "OPERATION_NOT_ATTEMPTED", "KAFKA_STORAGE_ERROR", "LOG_DIR_NOT_FOUND",
    "SASL_AUTHENTICATION_FAILED", "UNKNOWN_PRODUCER_ID", "REASSIGNMENT_IN_PROGRESS",
    "DELEGATION_TOKEN_AUTH_DISABLED", "DELEGATION_TOKEN_NOT_FOUND", "DELEGATION_TOKEN_OWNER_MISMATCH",
    "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", "DELEGATION_TOKEN_AUTHORIZATION_FAILED",
    "DELEGATION_TOKEN_EXPIRED", "INVALID_PRINCIPAL_TYPE", "NON_EMPTY_GROUP", "GROUP_ID_NOT_FOUND",
    "FETCH_SESSION_ID_NOT_FOUND", "INVALID_FETCH_SESSION_EPOCH", "LISTENER_NOT_FOUND",
    "TOPIC_DELETION_DISABLED", "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "UNSUPPORTED_COMPRESSION_TYPE",
    "STALE_BROKER_EPOCH", "OFFSET_NOT_AVAILABLE", "MEMBER_ID_REQUIRED", "PREFERRED_LEADER_NOT_AVAILABLE",
    "GROUP_MAX_SIZE_REACHED", "FENCED_INSTANCE_ID", "ELIGIBLE_LEADERS_NOT_AVAILABLE", "ELECTION_NOT_NEEDED",
    "NO_REASSIGNMENT_IN_PROGRESS", "GROUP_SUBSCRIBED_TO_TOPIC", "INVALID_RECORD", "UNSTABLE_OFFSET_COMMIT",
    "THROTTLING_QUOTA_EXCEEDED", "PRODUCER_FENCED", "RESOURCE_NOT_FOUND", "DUPLICATE_RESOURCE",
    "UNACCEPTABLE_CREDENTIAL", "INCONSISTENT_VOTER_SET", "INVALID_UPDATE_VERSION", "FEATURE_UPDATE_FAILED",
    "PRINCIPAL_DESERIALIZATION_FAILURE", "SNAPSHOT_NOT_FOUND", "POSITION_OUT_OF_RANGE", "UNKNOWN_TOPIC_ID",
    "DUPLICATE_BROKER_REGISTRATION", "BROKER_ID_NOT_REGISTERED", "INCONSISTENT_TOPIC_ID",
    "INCONSISTENT_CLUSTER_ID", "TRANSACTIONAL_ID_NOT_FOUND", "FETCH_SESSION_TOPIC_ID_ERROR",
    "INELIGIBLE_REPLICA", "NEW_LEADER_ELECTED", "OFFSET_MOVED_TO_TIERED_STORAGE", "FENCED_MEMBER_EPOCH",
    "UNRELEASED_INSTANCE_ID", "UNSUPPORTED_ASSIGNOR", "STALE_MEMBER_EPOCH", "MISMATCHED_ENDPOINT_TYPE",
    "UNSUPPORTED_ENDPOINT_TYPE", "UNKNOWN_CONTROLLER_ID", "UNKNOWN_SUBSCRIPTION_ID", "TELEMETRY_TOO_LARGE",
    "INVALID_REGISTRATION", "TRANSACTION_ABORTABLE", "INVALID_RECORD_STATE", "SHARE_SESSION_NOT_FOUND",
    "INVALID_SHARE_SESSION_EPOCH", "FENCED_STATE_EPOCH", "INVALID_VOTER_KEY", "DUPLICATE_VOTER",
    "VOTER_NOT_FOUND", "INVALID_REGULAR_EXPRESSION", "REBOOTSTRAP_REQUIRED", "STREAMS_INVALID_TOPOLOGY",
    "STREAMS_INVALID_TOPOLOGY_EPOCH", "STREAMS_TOPOLOGY_FENCED", "SHARE_SESSION_LIMIT_REACHED",
];

/// The name of an error. None for success.
pub(super) fn error_name(code: i16) -> Option<String> {
    match code {
        0 => None,
        -1 => Some("UNKNOWN_SERVER_ERROR".to_owned()),
        code => {
            let index = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
            let name = index.and_then(|index| ERRORS.get(index));
            Some(name.map_or_else(|| code.to_string(), |name| (*name).to_owned()))
        }
    }
}
