//! What is found in statements of each dialect: literals, secrets, comments and first words.

use super::*;
use crate::test_rng::{TestRng, cases};

const POSTGRESQL: Dialect = Dialect { family: Family::PostgreSql, backslash: Backslash::IsText };
const MYSQL: Dialect = Dialect { family: Family::MySql, backslash: Backslash::Escapes };

#[track_caller]
fn check(dialect: Dialect, text: &str, shown: &str) -> Sql {
    let sql = read(text.as_bytes(), dialect);
    assert_eq!(sql.statement.without_values(), shown, "{text}");
    sql
}

#[test]
fn values_of_postgresql() {
    for (text, shown) in [
        ("SELECT * FROM t WHERE id = 1", "SELECT * FROM t WHERE id = ?"),
        ("select 'it''s', E'it\\'s', $$it's$$, $a$x$$y$a$, 'a\\', 1", "select ?, ?, ?, ?, ?, ?"),
        (r#"SELECT "a""1", t1.c2 FROM t1"#, r#"SELECT "a""1", t1.c2 FROM t1"#),
        (
            "SELECT $1, -1.5e-3, .5, 0xff, 1_000, b'01', X'ff', U&'a', U&\"n\"",
            "SELECT $1, -?, ?, ?, ?, ?, ?, ?, U&\"n\"",
        ),
        ("SELECT a[1:2]::int8, x$1", "SELECT a[?:?]::int8, x$1"),
        ("SELECT 'open", "SELECT ?"),
        ("SELECT $a$ open 'x'", "SELECT ?"),
        ("SELECT 1 -- it's 5\n, 2", "SELECT ? -- it's 5\n, ?"),
        ("SELECT 1 /* a /* 1 */ 'b' */ + 2", "SELECT ? /* a /* 1 */ 'b' */ + ?"),
        ("", ""),
    ] {
        check(POSTGRESQL, text, shown);
        assert_eq!(read(text.as_bytes(), POSTGRESQL).statement.text(), text);
    }
    let old = Dialect { backslash: Backslash::Escapes, ..POSTGRESQL };
    check(old, r"SELECT 'a\'b', 1", "SELECT ?, ?");
}

#[test]
fn values_of_mysql() {
    for (text, shown) in [
        (r#"SELECT 'a\'b', "c""d", `e``1`, 1 # it's"#, "SELECT ?, ?, `e``1`, ? # it's"),
        ("SELECT 1--1", "SELECT ?--?"),
        ("SELECT 1 -- 'x", "SELECT ? -- 'x"),
        ("SELECT /*!40101 'x', */ _utf8'y', N'z', ?", "SELECT /*!40101 ?, */ _utf8?, ?, ?"),
        ("SELECT /* a /* 'b */ 'c'", "SELECT /* a /* 'b */ ?"),
    ] {
        check(MYSQL, text, shown);
    }
}

#[test]
fn shapes_have_no_comments() {
    let sql = check(
        POSTGRESQL,
        "/*traceparent='00-1'*/ SELECT 1\n -- x\n",
        "/*traceparent='00-1'*/ SELECT ?\n -- x\n",
    );
    assert_eq!(sql.statement.shape(), "SELECT ?");
    assert_eq!(sql.operation.as_deref(), Some("SELECT"));
}

#[test]
fn secrets_are_not_kept() {
    for (dialect, text, shown) in [
        (
            POSTGRESQL,
            "CREATE ROLE a LOGIN PASSWORD 'hidden' VALID UNTIL 'x'",
            "CREATE ROLE a LOGIN PASSWORD *** VALID UNTIL ***",
        ),
        (
            POSTGRESQL,
            "alter user a with encrypted password E'hid\\'den'",
            "alter user a with encrypted password ***",
        ),
        (POSTGRESQL, "ALTER USER a PASSWORD $$hidden$$; SELECT 1", "ALTER USER a PASSWORD ***; SELECT ?"),
        (
            POSTGRESQL,
            "CREATE SUBSCRIPTION s CONNECTION 'host=h hidden' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION *** PUBLICATION p",
        ),
        (POSTGRESQL, "SELECT dblink('host=h password=hidden', 'x')", "SELECT dblink(***, ?)"),
        (POSTGRESQL, "SELECT dblink('postgresql://u:hidden@h/d', 'x')", "SELECT dblink(***, ?)"),
        (
            POSTGRESQL,
            "SELECT 1 FROM u WHERE password = 'hidden' AND n = 'x'",
            "SELECT ? FROM u WHERE password = *** AND n = ?",
        ),
        (
            POSTGRESQL,
            "SELECT 1 FROM u WHERE \"password\" IN ('hidden', 'hidden')",
            "SELECT ? FROM u WHERE \"password\" IN (***, ***)",
        ),
        (POSTGRESQL, "DO $$ BEGIN EXECUTE 'CREATE ROLE a PASSWORD ''hidden'''; END $$", "DO ***"),
        (POSTGRESQL, "/* PASSWORD 'hidden' */ SELECT 1", "/*…*/ SELECT ?"),
        (
            POSTGRESQL,
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'x', password 'hidden')",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user ?, password ***)",
        ),
        (POSTGRESQL, "ALTER USER a PASSWORD 'hidden", "ALTER USER a PASSWORD ***"),
        (MYSQL, "CREATE USER 'a'@'%' IDENTIFIED BY 'hidden'", "CREATE USER ?@? IDENTIFIED BY ***"),
        (
            MYSQL,
            "ALTER USER a IDENTIFIED WITH p AS \"hidden\" REPLACE 'hidden'",
            "ALTER USER a IDENTIFIED WITH p AS *** REPLACE ***",
        ),
        (
            MYSQL,
            "GRANT ALL ON *.* TO a IDENTIFIED BY PASSWORD 'hidden'",
            "GRANT ALL ON *.* TO a IDENTIFIED BY PASSWORD ***",
        ),
        (MYSQL, "SET PASSWORD FOR 'a'@'h' = PASSWORD('hidden')", "SET PASSWORD FOR ***@*** = PASSWORD(***)"),
        (
            MYSQL,
            "CHANGE MASTER TO MASTER_HOST='h', MASTER_PASSWORD='hidden'",
            "CHANGE MASTER TO MASTER_HOST=?, MASTER_PASSWORD=***",
        ),
        (MYSQL, "SELECT PASSWORD('hidden'), 'x'", "SELECT PASSWORD(***), ***"),
    ] {
        let sql = check(dialect, text, shown);
        assert!(!sql.statement.text().contains("hidden"), "{text}");
    }
}

#[test]
fn operations_and_numbers_of_statements() {
    for (text, operation, statements) in [
        ("select 1", Some("SELECT"), Some(1)),
        (" /* x */ (select 1) union (select 2);", Some("SELECT"), Some(1)),
        ("BEGIN; INSERT INTO t VALUES (1);; COMMIT", Some("BEGIN"), Some(3)),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", Some("CREATE"), None),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END", Some("CREATE"), None),
        (" ; ", None, Some(0)),
        ("", None, Some(0)),
    ] {
        let sql = read(text.as_bytes(), POSTGRESQL);
        assert_eq!((sql.operation.as_deref(), sql.statements), (operation, statements), "{text}");
    }
}

#[test]
fn long_statements_are_cut() {
    let long = format!("SELECT {}", "a, ".repeat(100_000));
    let sql = read(long.as_bytes(), POSTGRESQL);
    assert!(sql.statement.text().len() <= MAX_TEXT + CUT.len() && sql.statement.text().ends_with(CUT));
    assert_eq!(sql.statements, None);
    let many = format!("SELECT {}", "1,".repeat(5_000));
    let sql = read(many.as_bytes(), POSTGRESQL);
    assert!(sql.statement.text().ends_with(CUT) && sql.statement.text().len() < 3000);
}

#[test]
fn tokens_are_the_text() {
    let mut rng = TestRng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..cases(2000) {
        let bytes = rng.bytes(b"aE$'\"`\\/*-#;() \n1.x\xc3\xa4&uU!@=,");
        let text = String::from_utf8_lossy(&bytes);
        for dialect in [POSTGRESQL, MYSQL] {
            let tokens: String = Tokens::new(&text, dialect).map(|(_, token)| token).collect();
            assert_eq!(tokens, text);
            read(&bytes, dialect);
        }
    }
}
