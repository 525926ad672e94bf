//! Each kind of exchange.

use super::*;

#[test]
fn pipelined_executions() {
    check(
        &[
            up(&[
                parse("", "UPDATE t SET a = 1"),
                bind("", ""),
                execute(""),
                parse("s", "SELECT $1"),
                bind("", "s"),
                m('D', "P\0"),
                execute(""),
                bind("", "s"),
                execute(""),
                sync(),
            ]),
            down(&[m('1', ""), m('2', ""), done("UPDATE 5"), m('1', ""), m('2', ""), m('T', [0, 0])]),
            down(&[m('D', [0, 0]), done("SELECT 1"), m('2', ""), done("SELECT 0"), ready('I')]),
        ],
        &[
            ">2 UPDATE `UPDATE t SET a = ?` 50",
            "<2 affected=5 tags=UPDATE 5 24",
            ">3 SELECT name=s `SELECT $1` 50",
            "<3 rows=1 tags=SELECT 1 38",
            ">4 SELECT name=s `SELECT $1` 29",
            "<4 rows=0 tags=SELECT 0 idle 25",
        ],
    );
}

#[test]
fn what_is_skipped_after_an_error() {
    check(
        &[
            up(&[
                parse("", "SELECT 1/0"),
                bind("", ""),
                execute(""),
                parse("a", "SELECT 2"),
                bind("", "a"),
                execute(""),
            ]),
            down(&[m('1', ""), m('2', ""), error("22012", "division by zero")]),
            up(&[parse("b", "SELECT 3"), bind("", "b"), execute(""), sync()]),
            down(&[ready('I')]),
            // The statement was not prepared.
            up(&[bind("", "a"), execute(""), sync()]),
            down(&[error("26000", "prepared statement \"a\" does not exist"), ready('I')]),
        ],
        &[
            ">2 SELECT `SELECT ?/?` 42",
            "<2 22012 `division by zero` 56",
            ">3 SELECT name=a `SELECT ?` 42",
            "<3 skipped 0",
            ">4 SELECT name=b `SELECT ?` 47",
            "<4 idle skipped 6",
            ">5 EXECUTE name=a 29",
            "<5 26000 idle `prepared statement \"a\" does not exist` 73",
        ],
    );
}

#[test]
fn statements_that_are_prepared() {
    check(
        &[
            up(&[parse("s", "SELECT 1"), m('D', "Ss\0"), m('H', "")]),
            down(&[m('1', ""), m('t', [0, 0]), m('n', "")]),
            up(&[bind("", "s"), execute(""), sync()]),
            down(&[m('2', ""), m('s', ""), ready('T')]),
            up(&[execute(""), m('C', "P\0"), sync()]),
            down(&[done("SELECT 0"), m('3', ""), ready('T')]),
            // The name is given to another one.
            up(&[m('C', "Ss\0"), sync()]),
            down(&[m('3', ""), ready('T')]),
            up(&[bind("", "s"), execute(""), sync()]),
            down(&[error("26000", "none"), ready('E')]),
            up(&[q("ROLLBACK; PREPARE s AS SELECT 2")]),
            down(&[done("ROLLBACK"), done("PREPARE"), ready('I')]),
            up(&[bind("", "s"), execute(""), sync()]),
            down(&[m('2', ""), done("SELECT 0"), ready('I')]),
            up(&[m('D', "Sx\0"), sync()]),
            down(&[error("26000", "none"), ready('I')]),
            up(&[sync()]),
            down(&[ready('I')]),
        ],
        &[
            ">2 PREPARE name=s `SELECT ?` 31",
            "<2 17",
            ">3 SELECT name=s `SELECT ?` 29",
            "<3 in_transaction 16",
            ">4 SELECT name=s `SELECT ?` 22",
            "<4 rows=0 tags=SELECT 0 in_transaction 25",
            ">5 CLOSE 13",
            "<5 in_transaction 11",
            ">6 EXECUTE name=s 29",
            "<6 26000 failed `none` 40",
            ">7 ROLLBACK batch=2 `ROLLBACK; PREPARE s AS SELECT ?` 37",
            "<7 tags=ROLLBACK, PREPARE idle 33",
            ">8 EXECUTE name=s 29",
            "<8 rows=0 tags=SELECT 0 idle 25",
            ">9 DESCRIBE name=x 13",
            "<9 26000 idle `none` 40",
        ],
    );
}

#[test]
fn copies_by_the_extended_protocol() {
    let begin = |name: &str| vec![parse("", name), bind("", ""), m('D', "P\0"), execute(""), sync()];
    check(
        &[
            up(&begin("COPY t FROM STDIN")),
            down(&[m('1', ""), m('2', ""), m('n', ""), m('G', [0, 0, 0])]),
            up(&[m('d', [1; 1000]), m('c', ""), sync()]),
            down(&[done("COPY 7"), ready('I')]),
            up(&begin("COPY t FROM STDIN")),
            down(&[m('1', ""), m('2', ""), m('n', ""), m('G', [0, 0, 0]), error("22P02", "bad")]),
            up(&[m('d', [1; 10]), m('f', "x\0"), sync()]),
            down(&[ready('I')]),
            up(&[q("COPY t TO STDOUT")]),
            down(&[m('H', [0, 0, 0]), m('d', vec![1; 70_000]), m('c', ""), done("COPY 9"), ready('I')]),
            up(&[q("COPY t FROM STDIN")]),
            down(&[m('G', [0, 0, 0])]),
            up(&[m('d', [1; 10])]),
            down(&[error("22P02", "bad"), ready('I')]),
            up(&[m('d', [1; 10]), m('c', "")]),
            up(&[q("SELECT 1")]),
            down(&[done("SELECT 0"), ready('I')]),
        ],
        &[
            ">2 COPY `COPY t FROM STDIN` 1076",
            "<2 affected=7 tags=COPY 7 idle 41",
            ">3 COPY `COPY t FROM STDIN` 88",
            "<3 22P02 idle `bad` 62",
            ">4 COPY `COPY t TO STDOUT` 22",
            "<4 rows=9 tags=COPY 9 idle 70036",
            ">5 COPY `COPY t FROM STDIN` 38",
            "<5 22P02 idle `bad` 47",
            ">6 SELECT `SELECT ?` 14",
            "<6 rows=0 tags=SELECT 0 idle 20",
        ],
    );
}

#[test]
fn what_is_not_asked_for() {
    check(
        &[
            down(&[m('A', "\0\0\0\x01c\0payload\0"), m('N', "SNOTICE\0\0")]),
            up(&[m('F', [0; 8])]),
            down(&[m('V', [0; 4]), ready('I')]),
            up(&[q("SELECT pg_sleep(1)")]),
            down(&[m('E', "SFATAL\0C57P01\0Mterminating connection\0\0")]),
        ],
        &[
            "!? NOTIFICATION on c 19",
            ">2 FUNCTION 13",
            "<2 idle 15",
            ">3 SELECT `SELECT pg_sleep(?)` 24",
            "<3 57P01 `terminating connection` 44",
        ],
    );
    let fatal = m('E', "SFATAL\0C57P05\0Mterminating\0\0");
    check(&[down(&[fatal])], &["!? 57P05 `terminating` 33"]);
}

#[test]
fn connections_that_are_cut_off() {
    check(
        &[up(&[q("SELECT 1"), q("SELECT 2")]), down(&[m('T', [0, 0]), m('D', [0, 0])])],
        &[">2 SELECT `SELECT ?` 14", "<2 rows=1 14 $", ">3 SELECT `SELECT ?` 14"],
    );
}

#[test]
fn backslashes_are_what_the_server_says() {
    check(
        &[
            up(&[q("SET standard_conforming_strings = off")]),
            down(&[done("SET"), m('S', "standard_conforming_strings\0off\0"), ready('I')]),
            up(&[q(r"SELECT 'a\' AS b', 1")]),
            down(&[done("SELECT 0"), ready('I')]),
        ],
        &[
            ">2 SET `SET standard_conforming_strings = off` 43",
            "<2 tags=SET idle 52",
            ">3 SELECT `SELECT ?, ?` 26",
            "<3 rows=0 tags=SELECT 0 idle 20",
        ],
    );
}

#[test]
fn what_waits_is_bounded() {
    let mut conversation = conversation(&client());
    let mut out = Messages::new(0);
    let big = "'x',".repeat(3000);
    let messages: Vec<u8> = (0..4000)
        .flat_map(|n| {
            [parse(&format!("s{n}"), &format!("SELECT {big}")), bind("", &format!("s{n}")), execute("")]
        })
        .flatten()
        .collect();
    let [Happening::Call(_, startup), _] = startup() else { return };
    let all = [startup, messages].concat();
    let (mut offset, mut most) = (0, 0);
    for data in all.chunks(16_384) {
        let mark = CallMark { offset, call: 1, time: start_time(), starts_call: offset == 0 };
        conversation.data(Direction::Transmit, &Chunk { offset, data, mark }, &mut out);
        offset += data.len() as u64;
        most = most.max(conversation.held_bytes());
        out.drain().for_each(drop);
    }
    assert!(most < 6 << 20, "{most}");
}

#[test]
fn passwords_are_not_kept() {
    let [start, _] = startup();
    let events = [
        start,
        down(&[m('R', [0, 0, 0, 3])]),
        up(&[m('p', "hidden\0")]),
        down(&[m('R', [0; 4]), ready('I')]),
        up(&[q("ALTER ROLE a PASSWORD 'hidden'")]),
        down(&[done("ALTER ROLE"), ready('I')]),
    ];
    for message in run(conversation(&client()), &events, 1000).0 {
        for (_, value) in &message.fields {
            let text = match value {
                FieldValue::Text(text) => text.clone(),
                FieldValue::Statement(statement) => statement.text(),
                _ => String::new(),
            };
            assert!(!text.contains("hidden"), "{text}");
        }
    }
}
