//! Commands and replies of each kind.

use super::*;
use crate::protocol::redis::command;

#[test]
fn commands_are_answered_in_order() {
    check(
        &client(),
        &[
            ">SET user:1 secret | GET user:1 | GET none",
            "<+OK\r\n$6\r\nsecret\r\n$-1\r\n",
            ">LRANGE list 0 -1",
            "<*3\r\n$1\r\na\r\n:5\r\n*2\r\n+x\r\n_\r\n",
            ">HGETALL h",
            "<%2\r\n+a\r\n:1\r\n+b\r\n#t\r\n",
            "'PING hello\r\n",
            "<$5\r\nhello\r\n",
        ],
        &[
            ">1 SET user:1 secret",
            ">2 GET user:1",
            ">3 GET none",
            "<1 0",
            "<2 0",
            "<3 0",
            ">4 LRANGE list 0 -1",
            "<4 0 3",
            ">5 HGETALL h",
            "<5 0 2",
            ">6 PING hello",
            "<6 0",
        ],
    );
}

#[test]
fn values_of_resp3_are_read() {
    check(
        &client(),
        &[
            ">HELLO 3 AUTH default pa55 SETNAME app",
            "<%1\r\n$5\r\nproto\r\n:3\r\n",
            ">FOO.BAR k",
            "<|1\r\n+ttl\r\n:3600\r\n*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n,1.5e3\r\n(3492890328409238509324850943850943825024385\r\n",
            ">GET k",
            "<$?\r\n;4\r\nHell\r\n;6\r\no worl\r\n;1\r\nd\r\n;0\r\n",
            ">SMEMBERS k",
            "<~?\r\n+a\r\n=7\r\ntxt:abc\r\n,inf\r\n.\r\n",
            ">GET k",
            "<!21\r\nSYNTAX invalid syntax\r\n",
        ],
        &[
            ">1 HELLO 3 AUTH *** *** SETNAME app",
            "<1 0 1",
            ">2 FOO.BAR k",
            "<2 0 2",
            ">3 GET k",
            "<3 0",
            ">4 SMEMBERS k",
            "<4 0 3",
            ">5 GET k",
            "<5 0 SYNTAX invalid syntax",
        ],
    );
}

#[test]
fn errors_say_why() {
    check(
        &client(),
        &[
            ">INCR a",
            "<-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            ">GET a",
            "<-MOVED 3999 127.0.0.1:6381\r\n",
            ">GET b | SETT x pa55",
            "<-ERR unknown command 'SE'TT', with args beginning with: 'x' 'pa55' \r\n-ERR no such thing 'it's' here\r\n",
        ],
        &[
            ">1 INCR a",
            "<1 0 WRONGTYPE Operation against a key holding the wrong kind of value",
            ">2 GET a",
            "<2 0 MOVED 3999 127.0.0.1:6381",
            ">3 GET b",
            ">4",
            "<3 0 ERR unknown command '?'",
            "<4 0 ERR no such thing '?' here",
        ],
    );
}

#[test]
fn databases_and_transactions_are_followed() {
    check(
        &client(),
        &[
            ">SELECT 3 | GET a",
            "<+OK\r\n$1\r\nx\r\n",
            ">SELECT 99 | GET a",
            "<-ERR DB index is out of range\r\n$-1\r\n",
            ">MULTI | INCR a | EXEC",
            "<+OK\r\n+QUEUED\r\n*1\r\n:1\r\n",
            ">MULTI | INCR | EXEC",
            "<+OK\r\n-ERR wrong number of arguments\r\n-EXECABORT Transaction discarded\r\n",
            ">MULTI | LPUSH a x | EXEC",
            "<+OK\r\n+QUEUED\r\n*1\r\n-WRONGTYPE not a list\r\n",
            ">RESET",
            "<+RESET\r\n",
            ">GET a",
            "<_\r\n",
        ],
        &[
            ">1 SELECT 3",
            ">2 GET a",
            "<1 0",
            "<2 3",
            ">3 SELECT 99",
            ">4 GET a",
            "<3 3 ERR DB index is out of range",
            "<4 3",
            ">5 MULTI",
            ">6 INCR a",
            ">7 EXEC",
            "<5 3 in_transaction",
            "<6 3 in_transaction",
            "<7 3 1 idle",
            ">8 MULTI",
            ">9 INCR",
            ">10 EXEC",
            "<8 3 in_transaction",
            "<9 3 ERR wrong number of arguments failed",
            "<10 3 EXECABORT Transaction discarded idle",
            ">11 MULTI",
            ">12 LPUSH a x",
            ">13 EXEC",
            "<11 3 in_transaction",
            "<12 3 in_transaction",
            "<13 3 WRONGTYPE not a list 1 idle",
            ">14 RESET",
            "<14 3",
            ">15 GET a",
            "<15 0",
        ],
    );
}

#[test]
fn subscriptions_are_confirmed_one_by_one() {
    check(
        &client(),
        &[
            ">SUBSCRIBE a b",
            "<*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            "<*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
            "<*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
            ">PSUBSCRIBE c* | PING",
            "<*3\r\n$10\r\npsubscribe\r\n$2\r\nc*\r\n:3\r\n*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\ncc\r\n$1\r\nx\r\n\
             *2\r\n$4\r\npong\r\n$0\r\n\r\n",
            ">UNSUBSCRIBE | PUNSUBSCRIBE | LRANGE l 0 2",
            "<*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:2\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:1\r\n\
             *3\r\n$12\r\npunsubscribe\r\n$2\r\nc*\r\n:0\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
            ">UNSUBSCRIBE",
            "<*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
            ">GET k",
            "<$1\r\nv\r\n",
        ],
        &[
            ">1 SUBSCRIBE a b",
            "! message a hi",
            "<1",
            ">2 PSUBSCRIBE c*",
            ">3 PING",
            "<2",
            "! pmessage c* cc x",
            "<3 0 2",
            ">4 UNSUBSCRIBE",
            ">5 PUNSUBSCRIBE",
            ">6 LRANGE l 0 2",
            "<4",
            "<5",
            "<6 0 3",
            ">7 UNSUBSCRIBE",
            "<7",
            ">8 GET k",
            "<8 0",
        ]
        .map(
            |line| {
                if let Some(rest) = line.strip_prefix("! ") { format!("!? {rest}") } else { line.to_owned() }
            },
        )
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>(),
    );
}

#[test]
fn pushes_and_monitor_are_events() {
    check(
        &client(),
        &[
            ">HELLO 3 | SUBSCRIBE a | GET k",
            "<%0\r\n>3\r\n+subscribe\r\n+a\r\n:1\r\n>3\r\n+message\r\n+a\r\n$2\r\nhi\r\n$1\r\nv\r\n",
            ">GET k",
            "<>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n$1\r\nw\r\n",
            ">MONITOR",
            "<+OK\r\n+1339518083.107412 [0 127.0.0.1:60866] \"AUTH\" \"pa55\"\r\n",
            "<+1339518083.107412 [3 127.0.0.1:60866] \"set\" \"a b\" \"\\x00\\\"\"\r\n",
            ">QUIT",
            "<+OK\r\n",
        ],
        &[
            ">1 HELLO 3",
            ">2 SUBSCRIBE a",
            ">3 GET k",
            "<1 0 0",
            "<2",
            "!? message a hi",
            "<3 0",
            ">4 GET k",
            "!? invalidate \"\"",
            "<4 0",
            ">5 MONITOR",
            "<5 0",
            "!? 0 AUTH ***",
            "!? 3 SET \"a b\" \"\\x00\\\"\"",
            ">6 QUIT",
            "<6 0",
        ],
    );
}

#[test]
fn commands_may_have_no_reply() {
    check(
        &client(),
        &[
            ">CLIENT REPLY SKIP | SET a 1 | GET a",
            "<$1\r\n1\r\n",
            ">CLIENT REPLY OFF | SET a 2 | CLIENT REPLY ON | GET a",
            "<+OK\r\n$1\r\n2\r\n",
        ],
        &[
            ">1 CLIENT REPLY SKIP one-way",
            ">2 SET a 1 one-way",
            ">3 GET a",
            "<3",
            ">4 CLIENT REPLY OFF one-way",
            ">5 SET a 2 one-way",
            ">6 CLIENT REPLY ON",
            ">7 GET a",
            "<6",
            "<7",
        ],
    );
}

#[test]
fn a_replica_gets_a_stream_of_another_form() {
    check(
        &client(),
        &[
            ">PING | PSYNC ? -1",
            "<+PONG\r\n+FULLRESYNC 1234 0\r\n$5\r\nREDIS*1\r\n$4\r\nPING\r\n",
            ">REPLCONF ACK 0",
        ],
        &[">1 PING", ">2 PSYNC ? -1", "<1 0", "<2 0"],
    );
}

/// The parts of a statement: keys in brackets, values in parentheses.
fn parts(words: &str) -> String {
    let mut arguments = command::Arguments::default();
    for word in words.split(' ') {
        arguments.begin();
        arguments.add(word.as_bytes());
    }
    command::statement(&arguments).without_values()
}

#[test]
fn values_and_secrets_are_hidden() {
    for (words, expected) in [
        ("set user:1 secret EX 3", "SET user:1 ? ? ?"),
        ("MSET a 1 b 2", "MSET a ? b ?"),
        ("DEL a b c", "DEL a b c"),
        ("BLPOP a b 5", "BLPOP a b ?"),
        ("EVAL script 2 k1 k2 arg", "EVAL ? ? k1 k2 ?"),
        ("EVALSHA c0ffee 1 k1 arg", "EVALSHA c0ffee ? k1 ?"),
        ("XREAD COUNT 2 STREAMS a b 0 0", "XREAD ? ? ? a b ? ?"),
        ("XREADGROUP GROUP g c STREAMS a >", "XREADGROUP ? ? ? ? a ?"),
        ("XGROUP CREATE stream g $", "XGROUP CREATE stream ? ?"),
        ("BITOP AND dest a b", "BITOP AND dest a b"),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "ZUNIONSTORE d ? a b ? ? ?"),
        ("LMPOP 2 a b LEFT", "LMPOP ? a b ?"),
        ("OBJECT ENCODING a", "OBJECT ENCODING a"),
        ("CLIENT SETNAME app", "CLIENT SETNAME ?"),
        ("SELECT 3", "SELECT 3"),
        ("JSON.SET doc $ 1", "JSON.SET doc ? ?"),
        ("AUTH pa55", "AUTH ***"),
        ("AUTH user pa55", "AUTH *** ***"),
        ("HELLO 3 AUTH user pa55", "HELLO 3 AUTH *** ***"),
        ("ACL SETUSER bob on >pa55 ~*", "ACL SETUSER ? *** *** ***"),
        ("CONFIG SET requirepass pa55", "CONFIG SET requirepass ***"),
        ("CONFIG SET maxmemory 1 masterauth pa55", "CONFIG SET maxmemory ? masterauth ***"),
        ("CONFIG GET requirepass", "CONFIG GET requirepass"),
        ("SENTINEL SET mymaster auth-pass pa55", "SENTINEL SET ? ? ***"),
        ("MIGRATE host 6379 k 0 5000 AUTH pa55", "MIGRATE ? ? k ? ? ? ***"),
        ("MIGRATE host 6379  0 5000 AUTH2 user pa55 KEYS a b", "MIGRATE ? ? ? ? ? ? *** *** ? a b"),
        ("pa55word", ""),
    ] {
        assert_eq!(parts(words), expected, "{words}");
    }
    // Not even for who asks for secrets.
    let decoded = run(&client(), &calls(&[">AUTH user pa55", "<+OK\r\n"]), 1000);
    assert_eq!(field_text(&decoded.messages[0], &QUERY).unwrap(), "AUTH *** ***");
}

#[test]
fn large_values_do_not_wait() {
    let mut calls = TestCalls::default();
    let value = "v".repeat(3 << 20);
    let command = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
    let reply = format!("*2\r\n${}\r\n{value}\r\n:1\r\n", value.len());
    calls.up(command.clone()).down("+OK\r\n").up(super::command("GET k")).down(reply.clone());
    let decoded = run(&client(), &calls, 16_384);
    let lengths: Vec<u64> = decoded.messages.iter().map(|message| message.length).collect();
    assert_eq!(lengths, [command.len() as u64, 5, 20, reply.len() as u64]);
    assert!(decoded.held < 200_000, "{}", decoded.held);
    let statement = field_text(&decoded.messages[0], &QUERY).unwrap();
    assert!(statement.ends_with("vvv…") && statement.len() < 20_000, "{}", statement.len());
}

#[test]
fn limits_hold() {
    // Deep nesting, and a line that never ends.
    for reply in [
        "*1\r\n".repeat(100_000),
        format!("+{}", "x".repeat(1 << 20)),
        "*99999999999999999999\r\n".to_owned(),
    ] {
        let mut calls = TestCalls::default();
        calls.up(command("GET k")).down(reply);
        let decoded = run(&client(), &calls, 10_000);
        assert!(decoded.held < 1 << 20, "{}", decoded.held);
    }
    // Many arguments.
    let mut calls = TestCalls::default();
    calls.up(command(&format!("DEL {}", vec!["key"; 100_000].join(" "))));
    let decoded = run(&client(), &calls, 10_000);
    assert!(field_text(&decoded.messages[0], &QUERY).unwrap().ends_with(" …"));
    assert!(decoded.held < 1 << 20, "{}", decoded.held);
}

#[test]
fn gaps_within_strings_are_exact() {
    let mut calls = calls(&[">SET key value", "<+OK\r\n", ">GET key", "<$5\r\nvalue\r\n"]);
    // Within the last argument, and within a reply.
    calls.list[0].missing = vec![(27, 30)];
    calls.list[3].missing = vec![(5, 8)];
    let decoded = run(&client(), &calls, 1000);
    let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
    let value = shown[0].clone();
    assert!(value.starts_with(">1 SET key") && value.ends_with("-3"), "{value}");
    assert_eq!(shown[1..], ["<1 0", ">2 GET key", "<2 0 -3"]);
}

#[test]
fn a_connection_joined_in_the_middle_is_paired_once_it_is_idle() {
    check(
        &joined(),
        &[">GET a", "<$1\r\na\r\n", "~", ">GET b", "<$1\r\nb\r\n"],
        &[">? GET a", "<?", ">2 GET b", "<2"],
    );
    // A client that pipelines has to be idle twice.
    check(
        &joined(),
        &[
            ">GET a | GET b",
            "<$1\r\na\r\n",
            "<$1\r\nb\r\n",
            "~",
            ">GET c | GET d",
            "<$1\r\nc\r\n$1\r\nd\r\n",
            "~",
            ">GET e | GET f",
            "<$1\r\ne\r\n$1\r\nf\r\n",
        ],
        &[
            ">? GET a", ">? GET b", "<?", "<?", ">? GET c", ">? GET d", "<?", "<?", ">5 GET e", ">6 GET f",
            "<5", "<6",
        ],
    );
}

#[test]
fn other_protocols_are_not_taken_for_it() {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let mark = crate::protocol::CallMark { offset: 0, call: 1, time, starts_call: true };
    let check = |from_start: bool, up: &[u8], down: &[u8], expected: Detect| {
        let hints = Hints { from_start, ..Hints::default() };
        let input = |data| if data == b"" { Input::EMPTY } else { Input { data, offset: 0, marks: &[] } };
        let marks = [mark];
        let with_mark = |data| Input { marks: &marks, ..input(data) };
        let (transmit, receive) = (with_mark(up), with_mark(down));
        let prefix = Prefix { transmit, receive, hints: &hints };
        assert_eq!((REDIS.detect)(&prefix), expected, "{from_start} {up:?} {down:?}");
    };
    for from_start in [true, false] {
        check(from_start, b"*1\r\n$4\r\nPING\r\n", b"", Detect::Yes);
        check(from_start, b"*2\r\n$3\r\nget\r\n$1\r\na\r\n", b"", Detect::Yes);
        check(from_start, b"*2\r\n$3\r\nfoo\r\n$1\r\na\r\n", b"", Detect::No);
        check(from_start, b"*1\r\n$4\r\nPI", b"", Detect::NeedMore);
        check(from_start, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n", Detect::No);
        check(from_start, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"", Detect::No);
        check(from_start, b"HELO me\r\n", b"220 mail\r\n", Detect::No);
    }
    check(true, b"PING\r\n", b"", Detect::NeedMore);
    check(true, b"PI", b"", Detect::NeedMore);
    check(true, b"PING\r\n", b"+PONG\r\n", Detect::Yes);
    check(true, b"AUTH\r\n", b"+OK POP3\r\n", Detect::No);
    check(false, b"", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", Detect::Yes);
    check(false, b"", b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n", Detect::Yes);
    check(false, b"", b"+OK\r\n", Detect::No);
    let mut rng = TestRng(7);
    for _ in 0..2000 {
        let (up, down) = (rng.bytes(b""), rng.bytes(b"\r\n*$+-:0123"));
        let input = |data| Input { data, offset: 0, marks: std::slice::from_ref(&mark) };
        let (transmit, receive) = (input(&up), input(&down));
        let prefix = Prefix { transmit, receive, hints: &joined() };
        assert_ne!((REDIS.detect)(&prefix), Detect::Yes, "{up:?} {down:?}");
    }
}
