//! Header lists of RFC 7541 and of another encoder.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A list in lines, in which `?` stands for what is unknown.
fn shown(list: &HeaderList) -> Vec<String> {
    let text = |text: &Option<Text>| text.as_deref().unwrap_or("?").to_owned();
    list.fields.iter().map(|field| format!("{}: {}", text(&field.name), text(&field.value))).collect()
}

/// The decoder decodes lists to the expected ones, one after the other.
fn check(mut decoder: HpackDecoder, lists: &[(&str, &[&str])]) {
    for (encoded, expected) in lists {
        let list = decoder.decode(&bytes(encoded)).unwrap();
        assert_eq!(shown(&list), *expected, "{encoded}");
    }
}

const FIRST: &[&str] = &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
const SECOND: &[&str] =
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"];
const THIRD: &[&str] = &[
    ":method: GET",
    ":scheme: https",
    ":path: /index.html",
    ":authority: www.example.com",
    "custom-key: custom-value",
];

/// RFC 7541, C.2 to C.4.
#[test]
fn requests_of_the_rfc() {
    check(
        HpackDecoder::from_start(),
        &[("400a637573746f6d2d6b65790d637573746f6d2d686561646572", &["custom-key: custom-header"])],
    );
    check(HpackDecoder::from_start(), &[("040c2f73616d706c652f70617468", &[":path: /sample/path"])]);
    check(HpackDecoder::from_start(), &[("100870617373776f726406736563726574", &["password: secret"])]);
    check(HpackDecoder::from_start(), &[("82", &[":method: GET"])]);
    check(
        HpackDecoder::from_start(),
        &[
            ("828684410f7777772e6578616d706c652e636f6d", FIRST),
            ("828684be58086e6f2d6361636865", SECOND),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", THIRD),
        ],
    );
    check(
        HpackDecoder::from_start(),
        &[
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", FIRST),
            ("828684be5886a8eb10649cbf", SECOND),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", THIRD),
        ],
    );
}

/// RFC 7541, C.5 and C.6: the table has 256 bytes, so entries are evicted.
#[test]
fn responses_of_the_rfc() {
    let first: &[&str] = &[
        ":status: 302",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ];
    let second = &[&[":status: 307"], &first[1..]].concat();
    let third: &[&str] = &[
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    let size = "3fe101";
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let huffman = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    for [a, b, c] in [plain, huffman] {
        let a = format!("{size}{a}");
        let lists: [(&str, &[&str]); 3] = [(&a, first), (b, second), (c, third)];
        check(HpackDecoder::from_start(), &lists);
        // The same, if the size of the table is unknown and thus assumed to be larger.
        check(HpackDecoder::joined(), &lists);
    }
}

/// A connection that is joined in the middle: what came before is unknown, and what comes later is exact.
#[test]
fn what_was_missed_is_unknown() {
    let second: &[&str] = &[":method: GET", ":scheme: http", ":path: /", "?: ?", "cache-control: no-cache"];
    let third: &[&str] =
        &[":method: GET", ":scheme: https", ":path: /index.html", "?: ?", "custom-key: custom-value"];
    let later: &[&str] = &["custom-key: custom-value", "cache-control: no-cache", "?: ?", "?: x"];
    check(
        HpackDecoder::joined(),
        &[
            ("828684be58086e6f2d6361636865", second),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", third),
            // A new value for a name that is unknown is inserted.
            ("bebfc07f010178", later),
            ("bebfc0c1", &["?: x", "custom-key: custom-value", "cache-control: no-cache", "?: ?"]),
        ],
    );
    // The same after lists were missed.
    let mut decoder = HpackDecoder::from_start();
    decoder.decode(&bytes("400161016140016201 62")).unwrap();
    assert_eq!(shown(&decoder.decode(&bytes("bebf")).unwrap()), ["b: b", "a: a"]);
    decoder.missed_lists();
    assert_eq!(shown(&decoder.decode(&bytes("bebf")).unwrap()), ["?: ?", "?: ?"]);
    check(decoder, &[("40016301 63bebf", &["c: c", "c: c", "?: ?"])]);
}

#[test]
fn malformed_lists() {
    for encoded in
        ["80", "ff", "ffffffffffff7f", "41", "4101", "410561", "0081", "008100", "00ff", "0082ffff", "3f"]
    {
        let mut decoder = HpackDecoder::from_start();
        decoder.decode(&bytes("4001610161")).unwrap();
        assert!(decoder.decode(&bytes(encoded)).is_err(), "{encoded}");
        // What it has inserted is unknown, and so what the positions of the others are.
        assert_eq!(shown(&decoder.decode(&bytes("be")).unwrap()), ["?: ?"], "{encoded}");
    }
}

#[test]
fn memory_is_bounded() {
    // An entry of 4000 bytes, and 100 000 references to it.
    let mut encoded = bytes("4001617fa11e");
    encoded.extend([b'x'; 4000]);
    encoded.extend(vec![0xbe; 100_000]);
    encoded.extend(bytes("4001620162"));
    let mut decoder = HpackDecoder::from_start();
    let list = decoder.decode(&encoded).unwrap();
    assert!(list.is_cut);
    assert_eq!(list.fields.len(), MAX_LIST_BYTES / (4000 + 1 + table::OVERHEAD));
    // The entry after what was dropped was inserted nevertheless.
    assert_eq!(shown(&decoder.decode(&bytes("be")).unwrap()), ["b: b"]);
    // Entries do not accumulate.
    let mut decoder = HpackDecoder::joined();
    decoder.decode(&bytes("3fffffffff07")).unwrap();
    for _ in 0..10_000 {
        decoder.decode(&bytes("4001610161")).unwrap();
    }
    assert!(decoder.held_bytes() <= table::MAX_SIZE);
}

/// Every byte has the code that Appendix B gives it: the ends of the ranges of each length.
#[test]
fn huffman_codes() {
    let check = |bits: &str, expected: &[u8]| {
        let mut bits = bits.to_owned();
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let bytes: Vec<u8> = (0..bits.len() / 8)
            .map(|byte| u8::from_str_radix(&bits[byte * 8..byte * 8 + 8], 2).unwrap())
            .collect();
        assert_eq!(huffman::decode(&bytes).as_deref(), Some(expected), "{bits}");
    };
    check("00000", b"0");
    check("01001", b"t");
    check("010100", b" ");
    check("101101", b"u");
    check("1011100", b":");
    check("1111011", b"z");
    check("11111000", b"&");
    check("11111101", b"Z");
    check("1111111000", b"!");
    check("1111111001", b"\"");
    check("1111111111000", b"\0");
    check("111111111111111111111111111100", &[10]);
    check("11111111111111111111101110", &[255]);
}

#[test]
fn any_bytes() {
    let mut rng = crate::test_rng::TestRng(7);
    for _ in 0..20_000 {
        let mut decoder = HpackDecoder::joined();
        for _ in 0..3 {
            let _ = decoder.decode(&rng.bytes(&[]));
        }
        assert!(decoder.held_bytes() <= table::MAX_SIZE);
    }
}
