//! Connections of real clients to MariaDB 10.11.19, as a proxy between them has recorded them: for each call
//! a byte with the direction, the length in four bytes (little endian), and the data.

use expect_test::{Expect, expect};

use super::*;
use crate::test_rng::{TestRng, cases};

fn events(mut data: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((&direction, rest)) = data.split_first() {
        let (length, rest) = rest.split_first_chunk::<4>().unwrap();
        let (call, rest) = rest.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        let direction = if direction == 0 { Direction::Transmit } else { Direction::Receive };
        events.push(Event::Call(direction, call.to_vec()));
        data = rest;
    }
    events
}

#[track_caller]
fn check(data: &[u8], expected: &Expect) {
    expected.assert_eq(&(words(&client(), &events(data)).join("\n") + "\n"));
}

#[test]
fn mariadb() {
    check(
        include_bytes!("data/mariadb.bin"),
        &expect![[r"
        >1 mariadb in shop CONNECT 215
        <1 idle 20
        >2 mariadb in shop CREATE `CREATE TABLE t (id int PRIMARY KEY, n text)` 48
        <2 idle 11
        >3 mariadb in shop INSERT `INSERT INTO t VALUES (?, ?), (?, ?)` 54
        <3 affected=2 idle 50
        >4 mariadb in shop SELECT `SELECT * FROM t WHERE id > ?` 33
        <4 rows=2 idle 121
        >5 mariadb in shop INSERT `INSERT INTO t VALUES (?, ?)` 38
        <5 1062 23000 `Duplicate entry ?` 50
        >6 mariadb in shop SELECT `SELECT * FROM missing` 26
        <6 1146 42S02 `Table 'shop.missing' doesn't exist` 47
        >7 mariadb in shop START `START TRANSACTION` 22
        <7 in_transaction 11
        >8 mariadb in shop DELETE `DELETE FROM t WHERE id = ?` 31
        <8 affected=1 in_transaction 11
        >9 mariadb in shop ROLLBACK `ROLLBACK` 13
        <9 idle 11
        >10 mariadb in shop UPDATE `UPDATE t SET n = ? WHERE id = ?` 39
        <10 affected=0 idle 52
        >11 mariadb in shop SELECT `SELECT DATABASE()` 22
        <11 rows=1 idle 70
        >12 mariadb in shop USE 10
        <12 idle 21
        >13 mariadb in mysql SELECT `SELECT ?` 13
        <13 rows=1 idle 58
        >14 mariadb in mysql SET `SET PASSWORD FOR app@*** = PASSWORD(***)` 46
        <14 idle 11
        >15 mariadb in mysql CREATE `CREATE PROCEDURE shop.two() BEGIN SELECT ?; SELECT ?, ?; END` 65
        <15 idle 11
        >16 mariadb in mysql CALL `CALL shop.two()` 20
        <16 rows=2 idle 167
    "]],
    );
    check(
        include_bytes!("data/mariadb-refused.bin"),
        &expect![[r"
        >1 mariadb CONNECT 210
        <1 1045 28000 `Access denied for user 'app'@'localhost' (using password: YES)` 75
    "]],
    );
    check(
        include_bytes!("data/mariadb-load.bin"),
        &expect![[r"
        >1 mariadb in shop CONNECT 215
        <1 idle 20
        >2 mariadb in shop LOAD `LOAD DATA LOCAL INFILE ? INTO TABLE t` 79
        <2 affected=1 idle 114
    "]],
    );
    check(
        include_bytes!("data/mariadb-compressed.bin"),
        &expect![[r"
        >1 mariadb in shop CONNECT 215
        <1 zlib idle 20
    "]],
    );
}

#[test]
fn pymysql() {
    check(
        include_bytes!("data/pymysql.bin"),
        &expect![[r"
        >1 mariadb in shop CONNECT 142
        <1 idle 11
        >2 mariadb in shop SET `SET AUTOCOMMIT = ?` 23
        <2 idle 11
        >3 mariadb in shop SELECT `select n from t where id = ?` 33
        <3 rows=1 in_transaction 65
        >4 mariadb in shop SELECT batch=3 `select ?; select ?; update t set n = ?` 45
        <4 rows=2 affected=3 in_transaction 164
        >5 mariadb in shop SELECT `select nope` 16
        <5 1054 42S22 `Unknown column 'nope' in ?` 46
        >6 mariadb in shop PING 5
        <6 in_transaction 11
        >7 mariadb in shop USE 10
        <7 in_transaction 11
    "]],
    );
}

#[test]
fn connector_python() {
    check(
        include_bytes!("data/connector-python.bin"),
        &expect![[r"
        >1 mariadb in shop CONNECT 230
        <1 idle 11
        >2 mariadb in shop SET `SET NAMES ? COLLATE ?` 53
        <2 idle 11
        >3 mariadb in shop SET `SET @@session.autocommit = OFF` 35
        <3 idle 11
        >4 mariadb in shop PING 5
        <4 idle 11
        >5 mariadb in shop PREPARE `select n, id from t where id = ?` 37
        <5 131
        >6 mariadb in shop RESET name=1 `select n, id from t where id = ?` 9
        <6 idle 11
        >7 mariadb in shop SELECT name=1 `select n, id from t where id = ?` 19
        <7 rows=0 in_transaction 93
        >8 mariadb in shop RESET name=1 `select n, id from t where id = ?` 9
        <8 in_transaction 11
        >9 mariadb in shop SELECT name=1 `select n, id from t where id = ?` 19
        <9 rows=1 in_transaction 107
        >10 mariadb in shop RESET name=1 `select n, id from t where id = ?` 9
        <10 in_transaction 11
        >11 mariadb in shop SELECT name=1 `select n, id from t where id = ?` 19
        <11 rows=1 in_transaction 112
        >12 mariadb in shop CLOSE name=1 `select n, id from t where id = ?` 9 one way
        >13 mariadb in shop PREPARE `insert into t values (?, ?)` 32
        <13 79
        >14 mariadb in shop RESET name=2 `insert into t values (?, ?)` 9
        <14 in_transaction 11
        >15 mariadb in shop INSERT name=2 `insert into t values (?, ?)` 42
        <15 affected=1 in_transaction 11
        >16 mariadb in shop RESET name=2 `insert into t values (?, ?)` 9
        <16 in_transaction 11
        >17 mariadb in shop INSERT name=2 `insert into t values (?, ?)` 21
        <17 affected=1 in_transaction 11
        >18 mariadb in shop COMMIT `COMMIT` 11
        <18 idle 11
        >19 mariadb in shop RESET name=2 `insert into t values (?, ?)` 9
        <19 idle 11
        >20 mariadb in shop INSERT name=2 `insert into t values (?, ?)` 21
        <20 1062 23000 `Duplicate entry ?` 51
        >21 mariadb in shop CLOSE name=2 `insert into t values (?, ?)` 9 one way
        >22 mariadb in shop RESET_CONNECTION 5
        <22 idle 11
        >23 mariadb in shop SET `SET NAMES ? COLLATE ?` 53
        <23 idle 11
        >24 mariadb in shop SET `SET @@session.autocommit = OFF` 35
        <24 idle 11
        >25 mariadb in shop CHANGE_USER 226
        <25 idle 59
        >26 mariadb in mysql SET `SET NAMES ? COLLATE ?` 53
        <26 idle 11
        >27 mariadb in mysql SET `SET @@session.autocommit = OFF` 35
        <27 idle 11
        >28 mariadb in mysql STATISTICS 5
        <28 118
    "]],
    );
}

/// Within TLS, the greeting is not there.
#[test]
fn without_the_greeting() {
    let all = events(include_bytes!("data/pymysql.bin"));
    let [with, without] = [&all[..], &all[1..]].map(|events| words(&client(), events));
    let without_system =
        |words: &[String]| words.iter().map(|word| word.replace(" mariadb", "")).collect::<Vec<_>>();
    assert_eq!(without_system(&with), without_system(&without));
}

#[test]
fn passwords_are_not_kept() {
    for message in run(Conversation::new(ALL, client()), &events(include_bytes!("data/mariadb.bin")), 1000).0
    {
        for (_, value) in &message.fields {
            if let FieldValue::Statement(statement) = value {
                assert!(!statement.text().contains("'pw'"), "{}", statement.text());
            }
        }
    }
}

#[test]
fn damaged_connections() {
    let mut rng = TestRng(0x1234_5678_9abc_def1);
    for data in [
        &include_bytes!("data/mariadb.bin")[..],
        include_bytes!("data/pymysql.bin"),
        include_bytes!("data/connector-python.bin"),
    ] {
        for _ in 0..cases(100) {
            let mut damaged = events(data);
            for _ in 0..=rng.below(4) {
                let index = rng.below(damaged.len());
                if let Event::Call(_, data) = &mut damaged[index] {
                    let at = rng.below(data.len());
                    rng.damage(data, at);
                }
            }
            for hints in [client(), joined()] {
                let (_, conversation) = run(Conversation::of(&MYSQL, hints), &damaged, 1000);
                assert_eq!(conversation.waiting_bytes(), 0);
            }
        }
    }
}
