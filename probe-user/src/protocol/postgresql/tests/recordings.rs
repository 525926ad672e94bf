//! Connections of real clients to PostgreSQL 15.18, as a proxy between them has recorded them: for each call
//! a byte with the direction, the length in four bytes (little endian), and the data.

use super::*;
use expect_test::{Expect, expect};

fn events(mut data: &[u8]) -> Vec<Happening> {
    let mut events = Vec::new();
    while let Some((&direction, rest)) = data.split_first() {
        let (length, rest) = rest.split_first_chunk::<4>().unwrap();
        let (call, rest) = rest.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        let direction = if direction == 0 { Direction::Transmit } else { Direction::Receive };
        events.push(Happening::Call(direction, call.to_vec()));
        data = rest;
    }
    events
}

#[track_caller]
fn check(data: &[u8], expected: &Expect) {
    let words = words(&client(), &events(data));
    expected.assert_eq(&(words.join("\n") + "\n"));
}

/// All recordings.
pub(super) fn all() -> Vec<Vec<Happening>> {
    [
        &include_bytes!("data/psql.bin")[..],
        include_bytes!("data/psql-unencrypted.bin"),
        include_bytes!("data/pgbench-simple.bin"),
        include_bytes!("data/pgbench-extended.bin"),
        include_bytes!("data/pgbench-prepared.bin"),
        include_bytes!("data/pgbench-pipeline.bin"),
        include_bytes!("data/psycopg.bin"),
    ]
    .map(events)
    .to_vec()
}

#[test]
fn psql() {
    check(
        include_bytes!("data/psql.bin"),
        &expect![[r#"
        >1 CONNECT 226
        <1 idle 585
        >2 CREATE `CREATE TABLE t (id int PRIMARY KEY, n text);` 50
        <2 tags=CREATE TABLE idle 24
        >3 INSERT `INSERT INTO t VALUES (?, ?), (?, ?);` 56
        <3 affected=2 tags=INSERT 0 2 idle 22
        >4 SELECT `SELECT * FROM t WHERE id > ?;` 35
        <4 rows=2 tags=SELECT 2 idle 111
        >5 SELECT batch=3 `SELECT ? ; SELECT ? UNION SELECT ? ; UPDATE t SET n = ?;` 64
        <5 rows=3 affected=2 tags=SELECT 1, SELECT 2, UPDATE 2 idle 152
        >6 INSERT `INSERT INTO t VALUES (?, ?);` 40
        <6 23505 idle `duplicate key value violates unique constraint "t_pkey"` 175
        >7 SELECT `SELECT * FROM missing;` 28
        <7 42P01 idle `relation "missing" does not exist` 113
        >8 BEGIN `BEGIN;` 12
        <8 tags=BEGIN in_transaction 17
        >9 DELETE `DELETE FROM t WHERE id = ? RETURNING n;` 45
        <9 rows=1 affected=1 tags=DELETE 1 in_transaction 59
        >10 SELECT `SELECT ?/?;` 17
        <10 22012 failed `division by zero` 72
        >11 ROLLBACK `ROLLBACK;` 15
        <11 tags=ROLLBACK idle 20
        >12 COPY `COPY t FROM STDIN;` 53
        <12 affected=2 tags=COPY 2 idle 30
        >13 COPY `COPY t TO STDOUT;` 23
        <13 rows=4 tags=COPY 4 idle 79
        >14 DO `DO ?;` 49
        <14 tags=DO idle 139
        >15 PREPARE `PREPARE p (int) AS SELECT n FROM t WHERE id = $1;` 55
        <15 tags=PREPARE idle 19
        >16 SELECT name=p `SELECT n FROM t WHERE id = $1` 19
        <16 rows=1 tags=SELECT 1 idle 63
        >17 DEALLOCATE `DEALLOCATE p;` 19
        <17 tags=DEALLOCATE idle 22
        >18 LISTEN `LISTEN c;` 15
        <18 tags=LISTEN idle 18
        !? NOTIFICATION on c 19
        >19 NOTIFY `NOTIFY c, ?;` 26
        <19 tags=NOTIFY idle 18
        >20 CREATE `CREATE TABLE u AS SELECT * FROM t;` 40
        <20 affected=4 tags=SELECT 4 idle 20
        >21 `;` 7
        <21 idle 11
        >22 ALTER `ALTER USER app PASSWORD ***;` 35
        <22 tags=ALTER ROLE idle 22
    "#]],
    );
    check(
        include_bytes!("data/psql-unencrypted.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 SELECT `select ?` 14
        <2 rows=1 tags=SELECT 1 idle 66
    "]],
    );
    check(
        include_bytes!("data/psql-refused.bin"),
        &expect![[r#"
        >1 CONNECT 226
        <1 28P01 `password authentication failed for user "app"` 217
    "#]],
    );
}

#[test]
fn pgbench() {
    check(
        include_bytes!("data/pgbench-simple.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 BEGIN `BEGIN;` 12
        <2 tags=BEGIN in_transaction 17
        >3 SELECT `SELECT i FROM pgb WHERE i = ?;` 36
        <3 rows=1 tags=SELECT 1 in_transaction 59
        >4 UPDATE `UPDATE pgb SET i = ?;` 27
        <4 affected=1 tags=UPDATE 1 in_transaction 20
        >5 END `END;` 10
        <5 tags=COMMIT idle 18
        >6 BEGIN `BEGIN;` 12
        <6 tags=BEGIN in_transaction 17
        >7 SELECT `SELECT i FROM pgb WHERE i = ?;` 36
        <7 rows=1 tags=SELECT 1 in_transaction 59
        >8 UPDATE `UPDATE pgb SET i = ?;` 27
        <8 affected=1 tags=UPDATE 1 in_transaction 20
        >9 END `END;` 10
        <9 tags=COMMIT idle 18
    "]],
    );
    check(
        include_bytes!("data/pgbench-extended.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 BEGIN `BEGIN;` 52
        <2 tags=BEGIN in_transaction 32
        >3 SELECT `SELECT i FROM pgb WHERE i = $1;` 82
        <3 rows=1 tags=SELECT 1 in_transaction 69
        >4 UPDATE `UPDATE pgb SET i = $1;` 73
        <4 affected=1 tags=UPDATE 1 in_transaction 35
        >5 END `END;` 50
        <5 tags=COMMIT idle 33
        >6 BEGIN `BEGIN;` 52
        <6 tags=BEGIN in_transaction 32
        >7 SELECT `SELECT i FROM pgb WHERE i = $1;` 82
        <7 rows=1 tags=SELECT 1 in_transaction 69
        >8 UPDATE `UPDATE pgb SET i = $1;` 73
        <8 affected=1 tags=UPDATE 1 in_transaction 35
        >9 END `END;` 50
        <9 tags=COMMIT idle 33
    "]],
    );
    check(
        include_bytes!("data/pgbench-prepared.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 PREPARE name=P_0 `BEGIN;` 23
        <2 idle 11
        >3 BEGIN name=P_0 `BEGIN;` 40
        <3 tags=BEGIN in_transaction 27
        >4 PREPARE name=P_1 `SELECT i FROM pgb WHERE i = $1;` 48
        <4 in_transaction 11
        >5 SELECT name=P_1 `SELECT i FROM pgb WHERE i = $1;` 45
        <5 rows=1 tags=SELECT 1 in_transaction 64
        >6 PREPARE name=P_2 `UPDATE pgb SET i = $1;` 39
        <6 in_transaction 11
        >7 UPDATE name=P_2 `UPDATE pgb SET i = $1;` 45
        <7 affected=1 tags=UPDATE 1 in_transaction 30
        >8 PREPARE name=P_3 `END;` 21
        <8 in_transaction 11
        >9 END name=P_3 `END;` 40
        <9 tags=COMMIT idle 28
        >10 BEGIN name=P_0 `BEGIN;` 40
        <10 tags=BEGIN in_transaction 27
        >11 SELECT name=P_1 `SELECT i FROM pgb WHERE i = $1;` 45
        <11 rows=1 tags=SELECT 1 in_transaction 64
        >12 UPDATE name=P_2 `UPDATE pgb SET i = $1;` 45
        <12 affected=1 tags=UPDATE 1 in_transaction 30
        >13 END name=P_3 `END;` 40
        <13 tags=COMMIT idle 28
    "]],
    );
    check(
        include_bytes!("data/pgbench-pipeline.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 PREPARE name=P_0 `SELECT i FROM pgb WHERE i = $1;` 48
        <2 idle 11
        >3 PREPARE name=P_1 `SELECT i + ? FROM pgb WHERE i = $1;` 52
        <3 idle 11
        >4 SELECT name=P_0 `SELECT i FROM pgb WHERE i = $1;` 40
        <4 rows=1 tags=SELECT 1 58
        >5 SELECT name=P_1 `SELECT i + ? FROM pgb WHERE i = $1;` 45
        <5 rows=1 tags=SELECT 1 idle 71
        >6 SELECT name=P_0 `SELECT i FROM pgb WHERE i = $1;` 40
        <6 rows=1 tags=SELECT 1 58
        >7 SELECT name=P_1 `SELECT i + ? FROM pgb WHERE i = $1;` 45
        <7 rows=1 tags=SELECT 1 idle 71
    "]],
    );
}

#[test]
fn psycopg() {
    check(
        include_bytes!("data/psycopg.bin"),
        &expect![[r#"
        >1 CONNECT 226
        <1 idle 585
        >2 SELECT `select n from t where id = $1` 87
        <2 rows=0 tags=SELECT 0 idle 57
        >3 SELECT `select n from t where id = $1` 87
        <3 rows=1 tags=SELECT 1 idle 69
        >4 SELECT `select n from t where id = $1` 87
        <4 rows=1 tags=SELECT 1 idle 69
        >5 SELECT `select n from t where id = $1` 87
        <5 rows=0 tags=SELECT 0 idle 57
        >6 SELECT `select n from t where id = $1` 87
        <6 rows=0 tags=SELECT 0 idle 57
        >7 PREPARE name=_pg3_0 `select n from t where id = $1` 53
        <7 idle 11
        >8 SELECT name=_pg3_0 `select n from t where id = $1` 51
        <8 rows=0 tags=SELECT 0 idle 52
        >9 SELECT name=_pg3_0 `select n from t where id = $1` 51
        <9 rows=0 tags=SELECT 0 idle 52
        >10 INSERT name=_pg3_1 `insert into u values ($1, $2)` 106
        <10 affected=1 tags=INSERT 0 1 31
        >11 INSERT name=_pg3_1 `insert into u values ($1, $2)` 54
        <11 affected=1 tags=INSERT 0 1 26
        >12 INSERT name=_pg3_1 `insert into u values ($1, $2)` 54
        <12 affected=1 tags=INSERT 0 1 26
        >13 INSERT name=_pg3_1 `insert into u values ($1, $2)` 59
        <13 affected=1 tags=INSERT 0 1 idle 32
        >14 SELECT `select $1/?` 69
        <14 22012 idle `division by zero` 79
        >15 SELECT `select ?` 49
        <15 rows=1 tags=SELECT 1 70
        >16 SELECT `select ?/$1` 64
        <16 22012 `division by zero` 73
        >17 SELECT `select ?` 49
        <17 skipped 0
        >18 SELECT `select ?` 54
        <18 idle skipped 6
        >19 COPY `copy u from stdin` 43
        <19 affected=2 tags=COPY 2 idle 30
        >20 COPY `copy u from stdin` 39
        <20 22P02 idle `invalid input syntax for type integer: ?` 157
        >21 COPY `copy (select * from u where id = ?) to stdout` 52
        <21 rows=1 tags=COPY 1 idle 45
        >22 SELECT `select generate_series(?,?), ?` 78
        <22 rows=3 tags=SELECT 3 idle 158
        >23 BEGIN `BEGIN` 11
        <23 tags=BEGIN in_transaction 17
        >24 DECLARE `DECLARE "named" CURSOR FOR select generate_series(?,?)` 101
        <24 tags=DECLARE CURSOR in_transaction 41
        >25 DESCRIBE 17
        <25 in_transaction 47
        >26 FETCH `FETCH FORWARD ? FROM "named"` 34
        <26 rows=3 tags=FETCH 3 in_transaction 96
        >27 CLOSE `CLOSE "named"` 19
        <27 tags=CLOSE CURSOR in_transaction 24
        >28 COMMIT `COMMIT` 12
        <28 tags=COMMIT idle 18
    "#]],
    );
    check(
        include_bytes!("data/psycopg2-cancelled.bin"),
        &expect![[r"
        >1 CONNECT 226
        <1 idle 585
        >2 BEGIN `BEGIN` 11
        <2 tags=BEGIN in_transaction 17
        >3 SELECT `select pg_sleep(?)` 24
        <3 57014 failed `canceling statement due to user request` 145
    "]],
    );
    check(
        include_bytes!("data/psycopg2-cancel.bin"),
        &expect![[r"
        >1 CANCEL 16 one way
    "]],
    );
}

/// Whatever bytes contain, nothing panics, and nothing that was not asked is shown.
#[test]
fn damaged_connections() {
    let mut rng = crate::test_rng::TestRng(0x1234_5678_9abc_def1);
    for events in all() {
        for _ in 0..crate::test_rng::cases(60) {
            let mut damaged = events.clone();
            for _ in 0..=rng.below(4) {
                let index = rng.below(damaged.len());
                if let Happening::Call(_, data) = &mut damaged[index] {
                    let at = rng.below(data.len());
                    rng.damage(data, at);
                }
            }
            for hints in [client(), joined()] {
                let (_, conversation) = run(conversation(&hints), &damaged, 1000);
                assert_eq!(conversation.waiting_bytes(), 0);
            }
        }
    }
}
