//! Hellos as OpenSSL sends them, whole, in parts, cut and damaged.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::test_rng::TestRng;

/// Recorded from OpenSSL 3.0: handshakes of TLS 1.2, of 1.3, and of 1.3 in which the server requests another
/// key.
const TLS12: [&[u8]; 2] = [include_bytes!("data/tls12-c0.bin"), include_bytes!("data/tls12-s0.bin")];
const TLS13: [&[u8]; 2] = [include_bytes!("data/tls13-c0.bin"), include_bytes!("data/tls13-s0.bin")];
const AGAIN: [&[u8]; 4] = [
    include_bytes!("data/retry-c0.bin"),
    include_bytes!("data/retry-s0.bin"),
    include_bytes!("data/retry-c1.bin"),
    include_bytes!("data/retry-s1.bin"),
];

fn read(bytes: &[u8]) -> HandshakeParse {
    let mut parts = HelloBuffer::default();
    parts.begin(0, bytes);
    parts.take()
}

/// The contents of a recorded ClientHello, which begins with the header of its record.
fn offer(recorded: &[u8]) -> Hello {
    Hello::Client(ClientHello {
        random: *recorded[5 + 4 + 2..].first_chunk().unwrap(),
        server_name: Some(b"hello.test".to_vec()),
        protocols: Some(vec![b"h2".to_vec(), b"http/1.1".to_vec()]),
    })
}

fn answer(version: u16, cipher: u16, protocol: Option<&[u8]>) -> Hello {
    Hello::Server(ServerHello { version: Some(version), cipher, protocol: protocol.map(<[u8]>::to_vec) })
}

#[test]
fn hellos_of_openssl() {
    assert_eq!(read(TLS12[0]), HandshakeParse::Hello(offer(TLS12[0])));
    assert_eq!(read(TLS12[1]), HandshakeParse::Hello(answer(0x0303, 0xc02c, Some(b"h2"))));
    assert_eq!(read(TLS13[0]), HandshakeParse::Hello(offer(TLS13[0])));
    assert_eq!(read(TLS13[1]), HandshakeParse::Hello(answer(0x0304, 0x1302, None)));
    assert_eq!(read(AGAIN[0]), HandshakeParse::Hello(offer(AGAIN[0])));
    assert_eq!(read(AGAIN[1]), HandshakeParse::Hello(Hello::Retry));
    // After a record that is not a handshake.
    assert_eq!(read(&AGAIN[2][6..]), HandshakeParse::Hello(offer(&AGAIN[2][6..])));
    assert_eq!(read(AGAIN[2]), HandshakeParse::Junk);
    assert_eq!(read(AGAIN[3]), HandshakeParse::Hello(answer(0x0304, 0x1302, None)));
    assert_eq!(cipher_name(0xc02c), Some("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
    assert_eq!(cipher_name(0x1302), Some("TLS_AES_256_GCM_SHA384"));
    assert_eq!(cipher_name(0x0a0a), None);
}

#[test]
fn a_hello_comes_in_parts() {
    for size in [1, 5, 6, 100, 516] {
        let mut parts = HelloBuffer::default();
        let (first, rest) = TLS13[0].split_at(size);
        parts.begin(0, first);
        assert_eq!(parts.take(), HandshakeParse::Nothing, "{size}");
        parts.add(rest);
        assert_eq!(parts.take(), HandshakeParse::Hello(offer(TLS13[0])), "{size}");
        assert_eq!(parts.received(), 0);
    }
    // The header was read separately.
    let mut parts = HelloBuffer::default();
    parts.begin(512, &TLS13[0][5..]);
    assert_eq!(parts.take(), HandshakeParse::Hello(offer(TLS13[0])));
}

#[test]
fn a_hello_comes_in_several_records() {
    for size in [1, 4, 50, 300] {
        let records: Vec<u8> = TLS13[0][5..]
            .chunks(size)
            .flat_map(|part| {
                [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat()
            })
            .collect();
        assert_eq!(read(&records), HandshakeParse::Hello(offer(TLS13[0])), "{size}");
    }
}

#[test]
fn what_was_cut_is_not_known() {
    // As long as more may come, there is no result.
    for length in 0..TLS13[0].len() {
        assert_eq!(read(&TLS13[0][..length]), HandshakeParse::Nothing, "{length}");
    }
    // The name is found, although a key after it makes the hello longer than what the kernel emits.
    let hello = &TLS13[0][5..];
    let mut long = hello.to_vec();
    let extensions = 4 + 2 + 32 + 1 + 32 + 2 + usize::from(u16::from_be_bytes([hello[71], hello[72]])) + 2;
    let more = 8000_u16;
    let length = u16::from_be_bytes([hello[extensions], hello[extensions + 1]]) + more + 4;
    long[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    let whole = u16::try_from(hello.len()).unwrap() - 4 + more + 4;
    long[2..4].copy_from_slice(&whole.to_be_bytes());
    long.extend([0x33, 0x33]);
    long.extend(more.to_be_bytes());
    long.extend(vec![7; more.into()]);
    let header = [&[22, 3, 1], &u16::try_from(long.len()).unwrap().to_be_bytes()[..]].concat();
    assert_eq!(read(&[&header[..], &long].concat()), HandshakeParse::Hello(offer(TLS13[0])));
    // The version of a ServerHello may come last.
    let cut = parse(&TLS13[1][5..5 + 4 + 2 + 32 + 33 + 3 + 2]);
    assert_eq!(cut, Some(Hello::Server(ServerHello { version: None, cipher: 0x1302, protocol: None })));
}

#[test]
fn junk_is_no_hello() {
    let mut noise = TestRng(0xC0FF_EE00_1234_5678);
    for hello in TLS12.iter().chain(&TLS13).chain(&AGAIN) {
        for _ in 0..3000 {
            let mut bytes = hello.to_vec();
            for _ in 0..=noise.below(4) {
                let at = noise.below(bytes.len());
                noise.damage(&mut bytes, at);
            }
            bytes.truncate(noise.below(bytes.len() + 1));
            let _ = read(&bytes);
            let _ = parse(&bytes);
        }
    }
    for _ in 0..3000 {
        let bytes = noise.bytes(&[]);
        let _ = parse(&bytes);
        assert!(!matches!(read(&bytes), HandshakeParse::Hello(Hello::Client(_))));
    }
    assert_eq!((read(b""), read(b"GET / HTTP/1.1\r\n")), (HandshakeParse::Nothing, HandshakeParse::Junk));
}
