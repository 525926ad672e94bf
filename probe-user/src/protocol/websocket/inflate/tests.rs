//! What other encoders have compressed, whole and joined in the middle.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::test_rng::TestRng;

/// Compresses messages as a peer does that keeps its context.
struct Peer(Compress);

impl Peer {
    fn new() -> Self {
        Self(Compress::new(Compression::default(), false))
    }

    fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() * 2 + 1000);
        self.0.compress_vec(text, &mut out, FlushCompress::Sync).unwrap();
        out.strip_suffix(&END).unwrap().to_vec()
    }
}

/// Inflates a message. None stands for an unknown byte.
fn message(inflater: &mut Inflater, data: &[u8], split: usize) -> Result<Vec<Option<u8>>, InflateError> {
    let mut all = Vec::new();
    let mut out = |piece: Inflated<'_>| match piece {
        Inflated::Known(data) => all.extend(data.iter().copied().map(Some)),
        Inflated::Unknown(length) => all.extend(std::iter::repeat_n(None, length)),
    };
    data.chunks(split).try_for_each(|part| inflater.inflate(part, &mut out))?;
    inflater.end_message(&mut out)?;
    Ok(all)
}

fn known(text: &[u8]) -> Vec<Option<u8>> {
    text.iter().copied().map(Some).collect()
}

/// Words in random order, so that there is much to refer to, or random bytes.
fn texts(rng: &mut TestRng, count: usize) -> Vec<Vec<u8>> {
    let words: Vec<Vec<u8>> = (0..40).map(|_| rng.bytes(b"")).collect();
    let text = |rng: &mut TestRng| {
        (0..rng.below(60)).flat_map(|_| words.get(rng.below(words.len())).cloned().unwrap()).collect()
    };
    (0..count).map(|_| text(rng)).collect()
}

#[test]
fn what_a_compressor_made() {
    let mut rng = TestRng(1);
    for split in [1, 2, 3, 7, 1000, 100_000] {
        let mut peer = Peer::new();
        let mut inflater = Inflater::new(Earlier::Nothing);
        for text in texts(&mut rng, 40) {
            let data = peer.message(&text);
            assert!(message(&mut inflater, &data, split) == Ok(known(&text)), "{split} {}", text.len());
        }
        assert!(inflater.size() < 64 * 1024);
    }
}

#[test]
fn all_kinds_of_blocks() {
    let check = |data: &[u8], expected: &[u8]| {
        for split in [1, 2, 1000] {
            let mut inflater = Inflater::new(Earlier::Nothing);
            assert!(message(&mut inflater, data, split) == Ok(known(expected)), "{data:x?}");
        }
    };
    // The examples of RFC 7692, 7.2.3: one block, two, one that is stored, one that is marked as the last.
    check(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello");
    check(&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], b"Hello");
    check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello");
    check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello");
    check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello");
    check(&[0], b"");
    // With and without the context of the first message.
    let mut inflater = Inflater::new(Earlier::Nothing);
    let first = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
    assert!(message(&mut inflater, &first, 100) == Ok(known(b"Hello")));
    assert!(message(&mut inflater, &second, 100) == Ok(known(b"Hello")));
    let mut joined = Inflater::new(Earlier::Unknown);
    assert!(message(&mut joined, &second, 100) == Ok([known(b"H"), vec![None; 4]].concat()));
    let mut start = Inflater::new(Earlier::Nothing);
    assert_eq!(message(&mut start, &second, 100), Err(InflateError::Damaged));
}

/// After joining in the middle, or a gap, no byte is wrong, and all are known in the end.
#[test]
fn unknown_bytes_are_never_guessed() {
    let mut rng = TestRng(2);
    let (mut unknown, mut total) = (0, 0);
    for round in 0..8 {
        let texts = texts(&mut rng, 80);
        let mut peer = Peer::new();
        let data: Vec<Vec<u8>> = texts.iter().map(|text| peer.message(text)).collect();
        let join = rng.below(20);
        let gap = 50;
        let mut inflater = Inflater::new(Earlier::Unknown);
        for (index, (data, text)) in data.iter().zip(&texts).enumerate().skip(join) {
            if index == gap {
                inflater.forget();
                continue;
            }
            let all = message(&mut inflater, data, 1 + rng.below(50)).unwrap();
            assert_eq!(all.len(), text.len());
            let wrong = all.iter().zip(text).filter(|(has, is)| has.is_some_and(|has| has != **is)).count();
            assert_eq!(wrong, 0, "{round} {index}");
            unknown += all.iter().filter(|byte| byte.is_none()).count();
            total += all.len();
        }
    }
    // Words that are sent again and again refer to each other, so that they stay unknown.
    assert!(unknown > 1000 && unknown < total - 100_000, "{unknown} of {total}");
    // What was sent again in full is known again.
    let mut peer = Peer::new();
    let mut inflater = Inflater::new(Earlier::Unknown);
    let noise: Vec<u8> = (0..100_000).map(|_| rng.next().to_le_bytes()[3]).collect();
    peer.message(&noise);
    for _ in 0..3 {
        let noise: Vec<u8> = (0..40_000).map(|_| rng.next().to_le_bytes()[3]).collect();
        let data = peer.message(&noise);
        message(&mut inflater, &data, 1000).unwrap();
    }
    let data = peer.message(b"hello hello hello");
    assert!(message(&mut inflater, &data, 1000) == Ok(known(b"hello hello hello")));
    assert!(inflater.size() < 40 * 1024, "{}", inflater.size());
}

/// A bomb ends at the same byte however it is cut, and so does damage.
#[test]
fn what_expands_too_much() {
    let run = |data: &[u8], split: usize| {
        let mut inflater = Inflater::new(Earlier::Nothing);
        let mut length = 0;
        let mut out = |piece: Inflated<'_>| {
            length += match piece {
                Inflated::Known(data) => data.len(),
                Inflated::Unknown(length) => length,
            };
        };
        let result = data.chunks(split).try_for_each(|part| inflater.inflate(part, &mut out));
        (result, length)
    };
    let bomb = Peer::new().message(&vec![0; 8 << 20]);
    let mut damaged = Peer::new().message(b"hello what a nice day hello");
    damaged.extend([0xff; 20]);
    for (data, expected) in [(bomb, InflateError::ExpandsTooMuch), (damaged, InflateError::Damaged)] {
        let whole = run(&data, usize::MAX);
        assert_eq!(whole.0, Err(expected));
        assert!(whole.1 > 10 && whole.1 <= data.len() * 200 + (1 << 20), "{whole:?}");
        for split in [1, 2, 3, 7, 100, 1000] {
            assert_eq!(run(&data, split), whole, "{split}");
        }
    }
}

/// Damaged messages end, and what flate2 inflates comes out the same.
#[test]
fn damaged_messages() {
    let mut rng = TestRng(3);
    let text = texts(&mut rng, 30).concat();
    let text = text.get(..20_000).unwrap();
    let good = Peer::new().message(text);
    let mut same = 0;
    for round in 0..1500 {
        let mut data = good.get(..2000).unwrap().to_vec();
        if round % 2 == 0 {
            data = rng.bytes(b"");
        } else {
            let at = rng.below(data.len());
            *data.get_mut(at).unwrap() ^= 1 << rng.below(8);
        }
        let mut oracle = flate2::Decompress::new(false);
        let mut expected = Vec::with_capacity(1 << 20);
        let is_valid = oracle.decompress_vec(&data, &mut expected, flate2::FlushDecompress::None).is_ok();
        let mut all = Vec::new();
        let mut inflater = Inflater::new(Earlier::Nothing);
        let result = inflater.inflate(&data, &mut |piece| {
            if let Inflated::Known(data) = piece {
                all.extend_from_slice(data);
            }
        });
        // A reference to bytes before the first one is an error here, and yields zeros there. Bytes after the
        // last block are data here.
        if is_valid && result.is_ok() && oracle.total_in() + 8 >= data.len() as u64 {
            assert!(all.starts_with(&expected) || expected.starts_with(&all), "{data:x?}");
            same += 1;
        }
    }
    assert!(same > 50, "{same}");
}
