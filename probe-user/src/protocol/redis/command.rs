//! Commands: which of their arguments are keys, words, values and secrets.
//!
//! Owns the table of the commands that are known. Passwords leave this file as `***`, whatever is asked for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use crate::event::{Statement, StatementPart};

/// The bytes of a command's arguments that are kept.
const MAX_KEPT: usize = 16 * 1024;
/// The bytes of one argument that are kept.
const MAX_ARGUMENT: usize = 4 * 1024;
/// The arguments that are kept.
const MAX_ARGUMENTS: usize = 1024;
/// What stands for a password.
const SECRET: &str = "***";

/// The arguments of a command, as far as they are kept, beginning with its name. Used for one after the
/// other, so that nothing is allocated for each.
#[derive(Clone, Default)]
pub(super) struct Arguments {
    bytes: Vec<u8>,
    list: Vec<Argument>,
    /// How many there are, also of those that are not kept.
    count: u64,
}

/// An argument.
#[derive(Clone, Copy, Debug)]
struct Argument {
    start: usize,
    end: usize,
    /// Whether it goes on beyond what is kept.
    is_cut: bool,
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arguments({})", self.count)
    }
}

impl Arguments {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.count = 0;
    }

    /// Begins the next argument.
    pub(super) fn begin(&mut self) {
        self.count = self.count.saturating_add(1);
        if self.list.len() < MAX_ARGUMENTS && self.list.len() as u64 + 1 == self.count {
            let at = self.bytes.len();
            self.list.push(Argument { start: at, end: at, is_cut: false });
        }
    }

    /// Adds bytes to the last argument.
    pub(super) fn add(&mut self, data: &[u8]) {
        if self.list.len() as u64 != self.count {
            return;
        }
        let Some(last) = self.list.last_mut() else { return };
        let room = MAX_ARGUMENT.saturating_sub(last.end - last.start);
        let room = room.min(MAX_KEPT.saturating_sub(self.bytes.len()));
        let kept = if last.is_cut { &[] } else { data.get(..room).unwrap_or(data) };
        self.bytes.extend_from_slice(kept);
        last.end = self.bytes.len();
        last.is_cut |= kept.len() < data.len();
    }

    /// Bytes of the last argument are missing.
    pub(super) fn lose(&mut self) {
        if self.list.len() as u64 == self.count
            && let Some(last) = self.list.last_mut()
        {
            last.is_cut = true;
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let argument = self.list.get(index)?;
        self.bytes.get(argument.start..argument.end)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether an argument is a word, in any spelling.
    pub(super) fn is(&self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.capacity() + self.list.capacity() * size_of::<Argument>()
    }

    fn kept(&self) -> usize {
        self.list.len()
    }

    /// The number that an argument is.
    pub(super) fn number(&self, index: usize) -> Option<u64> {
        super::resp::number(self.get(index)?)
    }
}

/// Where the keys of a command are among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// It has none, and its arguments are values.
    None,
    /// It has none, and its arguments are words that are no secrets.
    Words,
    /// The first so many arguments.
    First(usize),
    All,
    AllButLast,
    /// Every other one, from the first.
    EveryOther,
    /// As many as the argument at this place says, behind it.
    Counted(usize),
    /// The first argument, and as many as the second one says.
    FirstAndCounted,
    /// The first half of what is behind `STREAMS`.
    Streams,
    /// The first argument is a word, and all others are keys.
    BehindWord,
    /// The first argument is a subcommand, and the second one a key.
    OfSubcommand,
    /// The first argument is a subcommand, and the others are values.
    Subcommand,
    /// Behind `KEYS`, or the third one.
    Migrate,
    /// The arguments are credentials.
    Credentials,
    Acl,
    Config,
    Hello,
}

/// The commands of Redis 8, Valkey 8 and KeyDB by where their keys are. Commands of modules, which have a dot
/// in their names, begin with a key.
#[rustfmt::skip]
const COMMANDS: &[(Keys, &[&str])] = &[
    (Keys::First(1), &[
        "APPEND", "BITCOUNT", "BITFIELD", "BITFIELD_RO", "BITPOS", "DECR", "DECRBY", "DELEX", "DIGEST", "DUMP", "EXPIRE",
        "EXPIREAT", "EXPIREMEMBER", "EXPIRETIME", "GEOADD", "GEODIST", "GEOHASH", "GEOPOS", "GEORADIUS",
        "GEORADIUSBYMEMBER", "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "GET", "GETBIT", "GETDEL",
        "GETEX", "GETRANGE", "GETSET", "HDEL", "HEXISTS", "HEXPIRE", "HEXPIREAT", "HEXPIRETIME", "HGET",
        "HGETALL", "HGETDEL", "HGETEX", "HINCRBY", "HINCRBYFLOAT", "HKEYS", "HLEN", "HMGET", "HMSET",
        "HPERSIST", "HPEXPIRE", "HPEXPIREAT", "HPEXPIRETIME", "HPTTL", "HRANDFIELD", "HSCAN", "HSET", "HSETEX",
        "HSETNX", "HSTRLEN", "HTTL", "HVALS", "INCR", "INCRBY", "INCRBYFLOAT", "KEYS", "LINDEX", "LINSERT",
        "LLEN", "LPOP", "LPOS", "LPUSH", "LPUSHX", "LRANGE", "LREM", "LSET", "LTRIM", "MOVE", "PERSIST",
        "PEXPIRE", "PEXPIREAT", "PEXPIRETIME", "PFADD", "PSETEX", "PTTL", "PUBLISH", "RESTORE",
        "RESTORE-ASKING", "RPOP", "RPUSH", "RPUSHX", "SADD", "SCARD", "SET", "SETBIT", "SETEX", "SETNX",
        "SETRANGE", "SISMEMBER", "SMEMBERS", "SMISMEMBER", "SORT", "SORT_RO", "SPOP", "SPUBLISH",
        "SRANDMEMBER", "SREM", "SSCAN", "STRLEN", "SUBSTR", "TTL", "TYPE", "VADD", "VCARD", "VDIM", "VEMB",
        "VGETATTR", "VINFO", "VLINKS", "VRANDMEMBER", "VREM", "VSETATTR", "VSIM", "XACK", "XACKDEL", "XADD",
        "XAUTOCLAIM", "XCLAIM", "XDEL", "XDELEX", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "XSETID", "XTRIM",
        "ZADD", "ZCARD", "ZCOUNT", "ZINCRBY", "ZLEXCOUNT", "ZMSCORE", "ZPOPMAX", "ZPOPMIN", "ZRANDMEMBER",
        "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANK", "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK",
        "ZREMRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZREVRANK", "ZSCAN", "ZSCORE",
    ]),
    (Keys::First(2), &[
        "BLMOVE", "BRPOPLPUSH", "COPY", "GEOSEARCHSTORE", "LCS", "LMOVE", "RENAME", "RENAMENX", "RPOPLPUSH",
        "SMOVE", "ZRANGESTORE",
    ]),
    (Keys::All, &[
        "DEL", "EXISTS", "MGET", "PFCOUNT", "PFMERGE", "PSUBSCRIBE", "PUNSUBSCRIBE", "SDIFF", "SDIFFSTORE",
        "SINTER", "SINTERSTORE", "SSUBSCRIBE", "SUBSCRIBE", "SUNION", "SUNIONSTORE", "SUNSUBSCRIBE", "TOUCH",
        "UNLINK", "UNSUBSCRIBE", "WATCH",
    ]),
    (Keys::AllButLast, &["BLPOP", "BRPOP", "BZPOPMAX", "BZPOPMIN"]),
    (Keys::EveryOther, &["MSET", "MSETNX"]),
    (Keys::BehindWord, &["BITOP"]),
    (Keys::Counted(1), &["LMPOP", "MSETEX", "SINTERCARD", "ZDIFF", "ZINTER", "ZINTERCARD", "ZMPOP", "ZUNION"]),
    (Keys::Counted(2), &[
        "BLMPOP", "BZMPOP", "EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO",
    ]),
    (Keys::FirstAndCounted, &["ZDIFFSTORE", "ZINTERSTORE", "ZUNIONSTORE"]),
    (Keys::Streams, &["XREAD", "XREADGROUP"]),
    (Keys::OfSubcommand, &["DEBUG", "MEMORY", "OBJECT", "XGROUP", "XINFO"]),
    (Keys::Subcommand, &[
        "CLIENT", "CLUSTER", "COMMAND", "COMMANDLOG", "FUNCTION", "LATENCY", "MODULE", "PUBSUB", "SCRIPT",
        "SLOWLOG",
    ]),
    (Keys::Words, &[
        "ASKING", "BGREWRITEAOF", "BGSAVE", "DBSIZE", "DISCARD", "EXEC", "FAILOVER", "FLUSHALL", "FLUSHDB",
        "INFO", "LASTSAVE", "LOLWUT", "MONITOR", "MULTI", "QUIT", "RANDOMKEY", "READONLY", "READWRITE",
        "REPLICAOF", "RESET", "ROLE", "SAVE", "SELECT", "SHUTDOWN", "SLAVEOF", "SWAPDB", "TIME", "UNWATCH",
        "WAIT", "WAITAOF",
    ]),
    (Keys::None, &["ECHO", "PFDEBUG", "PFSELFTEST", "PING", "PSYNC", "REPLCONF", "SCAN", "SYNC"]),
    (Keys::Migrate, &["MIGRATE"]),
    (Keys::Credentials, &["AUTH"]),
    (Keys::Acl, &["ACL"]),
    (Keys::Config, &["CONFIG", "SENTINEL"]),
    (Keys::Hello, &["HELLO"]),
];

static BY_NAME: LazyLock<HashMap<&'static [u8], (&'static str, Keys)>> = LazyLock::new(|| {
    let of_group = |(keys, names): &'static (Keys, &'static [&'static str])| {
        names.iter().map(|name| (name.as_bytes(), (*name, *keys)))
    };
    COMMANDS.iter().flat_map(of_group).collect()
});

/// The longest name in the table.
const MAX_NAME: usize = 24;

/// The entry of a command by its name, in any spelling.
fn entry(name: &[u8]) -> Option<(&'static str, Keys)> {
    let mut upper = [0; MAX_NAME];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    BY_NAME.get(&*upper).copied()
}

/// Whether a command of this name is known.
pub(super) fn is_known(name: &[u8]) -> bool {
    entry(name).is_some() || is_of_module(name)
}

/// Whether the name of a known command begins with these letters.
pub(super) fn starts_known(letters: &[u8]) -> bool {
    let letters = letters.to_ascii_uppercase();
    BY_NAME.keys().any(|name| name.starts_with(&letters))
}

/// Whether a name is that of a module's command: `JSON.SET`.
fn is_of_module(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'.');
    let is_word = |part: &[u8]| {
        (1..=16).contains(&part.len())
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    };
    parts.clone().count() == 2
        && parts.all(|part| is_word(part) && part.first().is_some_and(u8::is_ascii_alphabetic))
}

/// The name of a command. None if it is no known one, and not even like one: it may be anything, a password
/// that was typed in the wrong place.
pub(super) fn name(arguments: &Arguments) -> Option<Cow<'static, str>> {
    let name = arguments.get(0).filter(|_| arguments.list.first().is_some_and(|name| !name.is_cut))?;
    if let Some((name, _)) = entry(name) {
        return Some(name.into());
    }
    is_of_module(name).then(|| String::from_utf8_lossy(name).to_ascii_uppercase().into())
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Word,
    Key,
    Value,
    Secret,
}

/// A command without its secrets.
pub(super) fn statement(arguments: &Arguments) -> Statement {
    let mut statement = Statement::default();
    let Some(name) = name(arguments) else { return statement };
    statement.push(StatementPart::Text, &name);
    let keys = arguments.get(0).and_then(entry).map_or(Keys::First(1), |(_, keys)| keys);
    let parts = Parts::new(keys, arguments);
    for index in 1..arguments.kept() {
        let part = parts.of(index);
        let Some(argument) = arguments.list.get(index) else { break };
        let text = arguments.get(index).unwrap_or_default();
        statement.push(StatementPart::Text, " ");
        let kind = match part {
            Part::Word => StatementPart::Text,
            Part::Key => StatementPart::Key,
            Part::Value => StatementPart::Value,
            Part::Secret => {
                statement.push(StatementPart::Text, SECRET);
                continue;
            }
        };
        let mut text = shown(text);
        if argument.is_cut {
            text.to_mut().push('…');
        }
        statement.push(kind, &text);
    }
    if arguments.kept() as u64 != arguments.count() {
        statement.push(StatementPart::Text, " …");
    }
    statement
}

/// What the arguments of a command are.
struct Parts<'a> {
    keys: Keys,
    arguments: &'a Arguments,
    /// The first and the last key, of a range of them.
    range: Option<(usize, usize)>,
    /// The first argument that is a secret, and how many are.
    secrets: Option<(usize, usize)>,
}

impl<'a> Parts<'a> {
    fn new(keys: Keys, arguments: &'a Arguments) -> Self {
        let find = |word: &str| (1..arguments.kept()).find(|index| arguments.is(*index, word));
        let all = usize::try_from(arguments.count()).unwrap_or(usize::MAX);
        let last = all.saturating_sub(1);
        let counted = |at: usize| {
            let count = arguments.number(at).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            Some((at + 1, at.saturating_add(count)))
        };
        let range = match keys {
            Keys::First(count) => Some((1, count)),
            Keys::All => Some((1, last)),
            Keys::AllButLast => Some((1, last.saturating_sub(1))),
            Keys::BehindWord => Some((2, last)),
            Keys::OfSubcommand => Some((2, 2)),
            Keys::Counted(at) => counted(at),
            Keys::FirstAndCounted => counted(2),
            Keys::Streams => find("STREAMS").map(|at| (at + 1, at + (last - at) / 2)),
            Keys::Migrate => match find("KEYS") {
                Some(at) => Some((at + 1, last)),
                None => Some((3, 3)),
            },
            _ => None,
        };
        let behind = |at: Option<usize>, count| at.map(|at| (at + 1, count));
        let secrets = match keys {
            Keys::Credentials => Some((1, usize::MAX)),
            // A user's rules have passwords among them.
            Keys::Acl if arguments.is(1, "SETUSER") => Some((3, usize::MAX)),
            Keys::Hello => behind(find("AUTH"), 2),
            Keys::Migrate => behind(find("AUTH"), 1).or_else(|| behind(find("AUTH2"), 2)),
            _ => None,
        };
        Self { keys, arguments, range, secrets }
    }

    fn of(&self, index: usize) -> Part {
        if self.secrets.is_some_and(|(first, count)| index >= first && index - first < count) {
            return Part::Secret;
        }
        if self.range.is_some_and(|(first, last)| index >= first && index <= last) {
            return Part::Key;
        }
        match self.keys {
            Keys::EveryOther if index % 2 == 1 => Part::Key,
            Keys::FirstAndCounted if index == 1 => Part::Key,
            Keys::BehindWord | Keys::OfSubcommand | Keys::Subcommand | Keys::Acl if index == 1 => Part::Word,
            Keys::Counted(_) if index == 1 && self.arguments.is(0, "EVALSHA") => Part::Word,
            Keys::Counted(2)
                if index == 1 && (self.arguments.is(0, "FCALL") || self.arguments.is(0, "FCALL_RO")) =>
            {
                Part::Word
            }
            Keys::Words => Part::Word,
            Keys::Hello
                if index == 1 || self.arguments.is(index, "AUTH") || self.arguments.is(index, "SETNAME") =>
            {
                Part::Word
            }
            Keys::Config => self.of_config(index),
            _ => Part::Value,
        }
    }

    /// `CONFIG SET name value …`, `SENTINEL SET master name value …`: what is behind a name of a password is
    /// one.
    fn of_config(&self, index: usize) -> Part {
        let first = if self.arguments.is(0, "SENTINEL") && self.arguments.is(1, "SET") { 3 } else { 2 };
        let is_set = self.arguments.is(1, "SET") || self.arguments.is(2, "SET");
        match index {
            1 => Part::Word,
            // GET and the like have names only.
            _ if !is_set => {
                if self.arguments.is(0, "CONFIG") {
                    Part::Word
                } else {
                    Part::Value
                }
            }
            _ if self.arguments.is(index, "SET") => Part::Word,
            _ => {
                let name = self.arguments.get(index - 1).unwrap_or_default();
                let is_behind_secret = is_secret_name(name);
                match (is_behind_secret, (index.wrapping_sub(first)) % 2) {
                    (true, _) => Part::Secret,
                    (false, 0) if self.arguments.is(0, "CONFIG") => Part::Word,
                    _ => Part::Value,
                }
            }
        }
    }
}

/// Whether a setting is a password: `requirepass`, `masterauth`, `tls-key-file-pass`, `auth-pass`.
fn is_secret_name(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "auth", "secret", "masteruser", "primaryuser"]
        .iter()
        .any(|word| name.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// An argument as the command line of Redis takes it: in quotes if it would not be one word.
pub(super) fn shown(argument: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(argument)
        && !text.is_empty()
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\''))
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::from("\"");
    for chunk in argument.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => out.extend(format!("\\x{:02x}", u32::from(c)).chars()),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.extend(format!("\\x{byte:02x}").chars());
        }
    }
    out.push('"');
    Cow::Owned(out)
}
