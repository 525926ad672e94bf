//! Bodies that others have encoded, and what is seen in them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;
use crate::test_rng::TestRng;

const TEXT: &[u8] = include_bytes!("data/text.jsonl");
const BROTLI: &[u8] = include_bytes!("data/text.br");
const ZSTD: &[u8] = include_bytes!("data/text.zst");
/// 64 MiB of zeros.
const BROTLI_ZEROS: &[u8] = include_bytes!("data/zeros.br");
const ZSTD_ZEROS: &[u8] = include_bytes!("data/zeros.zst");
/// The beginning of a frame that asks for a window of 64 MiB.
const ZSTD_WINDOW: &[u8] = include_bytes!("data/zeros-window64m.zst");
const MUCH: usize = 16 << 20;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn encodings() {
    let check = |encodings: &[&str], data: &[u8], expected: &[u8], end: ContentEnd| {
        let content = decode(&names(encodings), data, Whole::Yes, MUCH);
        assert_eq!(content.end, end, "{encodings:?}");
        assert!(content.data == expected, "{encodings:?} {content:?}");
    };
    check(&[], TEXT, TEXT, ContentEnd::Whole);
    check(&["identity", ""], TEXT, TEXT, ContentEnd::Whole);
    check(&["gzip"], &gzip(TEXT), TEXT, ContentEnd::Whole);
    check(&["X-GZIP"], &gzip(TEXT), TEXT, ContentEnd::Whole);
    check(&["gzip"], &[gzip(b"one "), gzip(b"two")].concat(), b"one two", ContentEnd::Whole);
    check(&["deflate"], &zlib(TEXT), TEXT, ContentEnd::Whole);
    check(&["deflate"], &raw_deflate(TEXT), TEXT, ContentEnd::Whole);
    check(&["br"], BROTLI, TEXT, ContentEnd::Whole);
    check(&["zstd"], ZSTD, TEXT, ContentEnd::Whole);
    check(
        &["zstd"],
        &[ZSTD, b"\x50\x2a\x4d\x18\x03\0\0\0abc", ZSTD].concat(),
        &[TEXT, TEXT].concat(),
        ContentEnd::Whole,
    );
    // In the order in which they were applied.
    check(&["br", "gzip"], &gzip(BROTLI), TEXT, ContentEnd::Whole);
    check(&["zstd, deflate", "gzip"], &gzip(&zlib(ZSTD)), TEXT, ContentEnd::Whole);
    check(&["compress"], b"abc", b"abc", ContentEnd::UnknownEncoding("compress".to_owned()));
    check(
        &["aws-chunked", "gzip"],
        &gzip(b"abc"),
        b"abc",
        ContentEnd::UnknownEncoding("aws-chunked".to_owned()),
    );
    let five = (0..5).fold(b"abc".to_vec(), |data, _| gzip(&data));
    check(&["gzip"; 5], &five, &gzip(b"abc"), ContentEnd::UnknownEncoding("gzip".to_owned()));
    // Damage.
    check(&["gzip"], b"plain text", b"", ContentEnd::Damaged("gzip"));
    check(&["br"], b"\xff\xff\xff", b"", ContentEnd::Damaged("br"));
    check(&["zstd"], b"plain text, no frame", b"", ContentEnd::Damaged("zstd"));
    check(&["zstd"], ZSTD_WINDOW, b"", ContentEnd::Damaged("zstd"));
    check(&["br", "gzip"], &gzip(b"\xff\xff\xff"), b"", ContentEnd::Damaged("br"));
    let mut wrong_sum = gzip(TEXT);
    let at = wrong_sum.len() - 6;
    *wrong_sum.get_mut(at).unwrap() ^= 1;
    check(&["gzip"], &wrong_sum, TEXT, ContentEnd::Damaged("gzip"));
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        check(
            &[encoding],
            b"",
            b"",
            ContentEnd::Damaged(match encoding {
                "gzip" => "gzip",
                "deflate" => "deflate",
                "br" => "br",
                _ => "zstd",
            }),
        );
    }
}

/// What can be decoded of the first bytes is.
#[test]
fn first_bytes() {
    let inputs = [
        (names(&[]), TEXT.to_vec()),
        (names(&["gzip"]), gzip(TEXT)),
        (names(&["deflate"]), zlib(TEXT)),
        (names(&["deflate"]), raw_deflate(TEXT)),
        (names(&["br"]), BROTLI.to_vec()),
        (names(&["zstd"]), [ZSTD, ZSTD].concat()),
        (names(&["zstd", "gzip"]), gzip(ZSTD)),
    ];
    let text = [TEXT, TEXT].concat();
    for (encodings, whole) in inputs {
        let mut most = 0;
        for length in 0..whole.len() {
            let part = whole.get(..length).unwrap();
            let content = decode(&encodings, part, Whole::No, MUCH);
            assert!(text.starts_with(&content.data), "{encodings:?} {length}");
            let is_end = content.data.len().is_multiple_of(TEXT.len()) && !content.data.is_empty();
            assert!(content.end == ContentEnd::Cut || is_end, "{encodings:?} {length} {content:?}");
            assert!(content.data.len() >= most || is_end, "{encodings:?} {length} {most} {content:?}");
            most = content.data.len();
            // If it were all, it would be damaged.
            if !encodings.is_empty() && !is_end {
                let content = decode(&encodings, part, Whole::Yes, MUCH);
                assert!(matches!(content.end, ContentEnd::Damaged(_)), "{encodings:?} {length} {content:?}");
            }
        }
        let half = decode(&encodings, whole.get(..whole.len() - 10).unwrap(), Whole::No, MUCH);
        assert!(
            half.data.len() > 1000 || encodings.first().is_some_and(|name| name == "zstd"),
            "{encodings:?}"
        );
        // Every limit.
        for limit in [0, 1, 2, 100, TEXT.len() - 1] {
            let content = decode(&encodings, &whole, Whole::Yes, limit);
            assert_eq!(content.end, ContentEnd::Limit, "{encodings:?} {limit}");
            assert!(content.data == text.get(..limit).unwrap(), "{encodings:?} {limit} {content:?}");
        }
    }
    let content = decode(&names(&["gzip"]), &gzip(TEXT), Whole::Yes, TEXT.len());
    assert_eq!(content.end, ContentEnd::Whole);
}

#[test]
fn bombs() {
    let zeros = vec![0; 16 << 20];
    let check = |encodings: &[&str], data: &[u8]| {
        let content = decode(&names(encodings), data, Whole::Yes, 256 << 20);
        assert_eq!(content.end, ContentEnd::ExpandsTooMuch, "{encodings:?} {content:?}");
        assert!(content.data.len() < 4 << 20, "{encodings:?} {content:?}");
    };
    check(&["gzip"], &gzip(&zeros));
    check(&["deflate"], &zlib(&zeros));
    check(&["br"], BROTLI_ZEROS);
    check(&["zstd"], ZSTD_ZEROS);
    check(&["gzip", "gzip"], &gzip(&gzip(&zeros)));
    // Text that compresses well is none.
    let log = TEXT.repeat(100);
    let content = decode(&names(&["gzip"]), &gzip(&log), Whole::Yes, 256 << 20);
    assert_eq!((content.end, content.data.len()), (ContentEnd::Whole, log.len()));
}

#[test]
fn damaged_bodies() {
    let mut rng = TestRng(42);
    for (encoding, good) in [
        ("gzip", gzip(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("br", BROTLI.to_vec()),
        ("zstd", ZSTD.to_vec()),
    ] {
        rng.mutations(&good, 300, |data| {
            let content = decode(&names(&[encoding]), data, Whole::No, 100_000);
            assert!(content.data.len() <= 100_000);
        });
    }
}

fn shown(view: View<'_>) -> String {
    match view {
        View::Json(json) => format!("json{}\n{}", if json.is_whole { "" } else { " cut" }, json.text),
        View::Text(text) => format!("text\n{text}"),
        View::Protobuf(message) => format!("protobuf\n{}", message.text),
        View::Form(fields) => {
            let fields = fields.into_iter().map(|FormField { name, value }| format!("\n{name}: {value}"));
            fields.fold("form".to_owned(), |text, field| text + &field)
        }
        View::Multipart(parts) => parts.into_iter().fold("parts".to_owned(), |text, part| {
            let FormPart { name, file_name, media_type, data, whole } = part;
            let words = [name, file_name, media_type].map(|word| word.unwrap_or("-".to_owned())).join(" ");
            let data = String::from_utf8_lossy(data).into_owned();
            text + &format!("\n{words} {data:?}{}", if whole == Whole::Yes { "" } else { " cut" })
        }),
        View::Bytes => "bytes".to_owned(),
        View::UnknownCharset(name) => format!("charset {name}"),
    }
}

#[track_caller]
fn check_view(media_type: &str, data: &[u8], expected: &str) {
    let media_type = Some(media_type).filter(|media_type| !media_type.is_empty());
    assert_eq!(shown(view(media_type, data, Whole::Yes, 1000)), expected, "{media_type:?}");
}

#[test]
fn protocol_buffers() {
    check_view("application/protobuf", b"\x08\x01", "protobuf\n1: 1");
    check_view("application/x-protobuf; messageType=\"a.B\"", b"\x08", "bytes");
    check_view("application/grpc", b"\0\0\0\0\x02\x08\x01", "protobuf\n-\n  1: 1");
}

#[test]
fn texts() {
    check_view("text/plain", "a ä".as_bytes(), "text\na ä");
    check_view("text/plain; charset=ISO-8859-1", b"a \xe4", "text\na ä");
    check_view("TEXT/HTML;Charset=\"utf-16le\"", b"a\0\xe4\0", "text\naä");
    check_view("text/plain;charset=utf-16", b"\xfe\xff\0a\0\xe4", "text\naä");
    check_view("text/plain", b"\xff\xfea\0", "text\na");
    check_view("text/plain; charset=shift_jis", b"\x83\x65", "text\nテ");
    check_view("text/plain; charset=klingon", b"abc", "charset klingon");
    check_view("text/plain", b"a \xe4", "text\na \u{fffd}");
    check_view("image/svg+xml", b"<svg/>", "text\n<svg/>");
    check_view("application/x-thing; charset=utf-8", b"abc", "text\nabc");
    check_view("image/png", b"abc", "bytes");
    check_view("application/octet-stream", b"abc", "bytes");
    // Nobody says what it is.
    check_view("", b"hello\n", "text\nhello\n");
    check_view("", b"a \xe4", "bytes");
    check_view("", b"a\0", "bytes");
    check_view("", b"{\"a\": 1}", "json\n{\n  \"a\": 1\n}");
    check_view("", b"[hello]", "text\n[hello]");
    // A character that is cut off.
    assert_eq!(shown(view(None, "aä".as_bytes().get(..2).unwrap(), Whole::No, 1000)), "text\na");
    assert_eq!(shown(view(Some("text/plain"), "aäb".as_bytes(), Whole::Yes, 2)), "text\na");
}

#[test]
fn json_is_indented() {
    let json = "application/json";
    let nested = "json\n{\n  \"a\": [\n    1.00,\n    -2e+5,\n    {},\n    []\n  ],\n  \
                  \"b\": {\n    \"c\": null\n  }\n}";
    check_view(json, b" {\"a\":[1.00 , -2e+5,{ },[\n]],\"b\":{\"c\":null}} ", nested);
    // Numbers and strings stay as they are, and so does the order.
    check_view(
        json,
        br#"{"b":12345678901234567890.10,"a":"\u00e4\"\\","a":"x: {,"}"#,
        "json\n{\n  \"b\": 12345678901234567890.10,\n  \"a\": \"\\u00e4\\\"\\\\\",\n  \"a\": \"x: {,\"\n}",
    );
    check_view("application/problem+json; charset=utf-8", b"true", "json\ntrue");
    check_view(json, b"{} [1]\n\"a\" 2", "json\n{}\n[\n  1\n]\n\"a\"\n2");
    for wrong in [
        "", "{", "[1", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "[1 2]", "]", "[}", "'a'", "{,}", "nul",
        "\"a", "NaN", "[1,,2]",
    ] {
        check_view(json, wrong.as_bytes(), &format!("text\n{wrong}"));
    }
    let deep = "[".repeat(65) + &"]".repeat(65);
    assert!(json::pretty(&deep, Whole::Yes, 100_000).is_none());
    // Cut off anywhere.
    let text = r#"{"a":[1,true,{"b":"c\"d"},-5.5e3],"e":{}}"#;
    let whole = json::pretty(text, Whole::Yes, 1000).unwrap();
    assert!(whole.is_whole);
    for length in 1..text.len() {
        let part = json::pretty(text.get(..length).unwrap(), Whole::No, 1000).unwrap();
        assert!(!part.is_whole);
        assert!(whole.text.starts_with(part.text.trim_end()), "{length} {}", part.text);
    }
    for limit in 0..whole.text.len() {
        let part = json::pretty(text, Whole::Yes, limit).unwrap();
        assert!(!part.is_whole && part.text == whole.text.get(..limit).unwrap(), "{limit} {}", part.text);
    }
}

#[test]
fn forms_and_parts() {
    let form = "application/x-www-form-urlencoded";
    check_view(form, b"a=1&b=x+y%20%C3%A4&c&=d&&e=%", "form\na: 1\nb: x y ä\nc: \n: d\ne: %");
    check_view(form, b"", "form");
    let parts = "multipart/form-data; boundary=\"x y\"";
    let body =
        b"preamble --x y\r\n--x y\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--x y\r\n\
        content-disposition: form-data; name=f; filename=\"c:\\\\d \\\"e\\\".txt\"; \
        filename*=UTF-8''%C3%A4\r\nContent-Type: text/plain\r\n\r\ntwo\n--x y 3\r\n\r\n--x y--\r\n";
    check_view(parts, body, "parts\na - - \"one\"\nf ä text/plain \"two\"\n- - - \"\"");
    let mixed = "multipart/mixed; boundary=b";
    check_view(mixed, b"--b\r\n\r\none", "parts\n- - - \"one\"");
    check_view(mixed, b"--b\nA: b\n\none\n--b--", "parts\n- - - \"one\"");
    check_view(mixed, b"--b\r\nContent-Type: a/b", "parts\n- - - \"\" cut");
    check_view(mixed, b"nothing", "parts");
    check_view("multipart/mixed", b"--b", "bytes");
    let many = "--b\r\n\r\nx\r\n".repeat(1000);
    let View::Multipart(parts) = view(Some(mixed), many.as_bytes(), Whole::Yes, 10) else { panic!() };
    assert_eq!(parts.len(), 100);
    let fields = "a=b&".repeat(5000);
    let View::Form(fields) = view(Some(form), fields.as_bytes(), Whole::Yes, 100_000) else { panic!() };
    assert_eq!(fields.len(), 1000);
}

#[test]
fn hostile_bodies() {
    let mut rng = TestRng(7);
    let types = [
        "application/json",
        "multipart/form-data; boundary=b",
        "application/x-www-form-urlencoded",
        "text/plain; charset=iso-2022-jp",
        "a;b=\"\\\";;=;c",
        "",
    ];
    for media_type in types {
        for _ in 0..500 {
            let data = rng.bytes(b"{}[]:,\"\\ab01-\r\n=&%");
            view(Some(media_type), &data, Whole::No, 200);
            let text = String::from_utf8_lossy(&data).into_owned();
            view(Some(&text), &data, Whole::Yes, 200);
        }
    }
    for unit in ["[", "{\"a\":", "[],", "\"\\", "--b\r\n", "--b", "a;", ";\"", "%", "1 "] {
        let data = unit.repeat(50_000);
        for media_type in types.into_iter().chain([data.as_str()]) {
            view(Some(media_type), data.as_bytes(), Whole::Yes, 100_000);
        }
    }
}
