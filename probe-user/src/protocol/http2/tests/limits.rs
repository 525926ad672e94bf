//! What a peer can do to the memory.

use super::super::streams::{MAX_HELD, MAX_STREAMS};
use super::*;

#[test]
fn streams_are_bounded() {
    // More streams than are kept, of which the first ones are answered last.
    let count = u32::try_from(MAX_STREAMS).unwrap() + 10;
    let ids = (0..count).map(|number| number * 2 + 1);
    let opened: Vec<Vec<u8>> = ids.map(|id| get(OPEN, id, "/")).collect();
    let mut events = vec![up(&[preface()])];
    events.extend(opened.chunks(100).map(up));
    let before = run(&client(), &events, 10_000);
    assert_eq!(before.0.len(), count as usize);
    assert!(before.0.iter().all(|message| message.partial.lacks_end));
    let answer = |id| down(&[headers(END, id, &[(":status", "200")])]);
    events.extend([answer(21), answer(count * 2 - 1)]);
    let (messages, _) = run(&client(), &events, 10_000);
    let answers = messages.iter().filter(|message| message.kind == MessageKind::Response);
    let answers: Vec<_> = answers.map(|message| (message.id.unwrap(), message.partial.is_whole())).collect();
    assert_eq!(
        (messages.len(), answers),
        (count as usize + 2, vec![(21, true), (u64::from(count) * 2 - 1, true)])
    );
}

#[test]
fn memory_is_bounded() {
    let mut decoder = Http2Decoder::new(&client());
    let mut out = Messages::new(usize::MAX);
    let value = "v".repeat(120);
    let fields: Vec<(&str, &str)> = (0..200).map(|_| ("name", &*value)).collect();
    let mut offset = 0;
    let mut feed = |decoder: &mut Http2Decoder, bytes: &[u8], out: &mut Messages| {
        let mark = CallMark { offset, call: 1, time: Timestamp::UNIX_EPOCH, starts_call: true };
        let input = Input { data: bytes, offset, marks: &[mark] };
        offset += bytes.len() as u64;
        decoder.data(UP, input, out).unwrap()
    };
    feed(&mut decoder, &preface(), &mut out);
    let mut most = 0;
    for stream in 0..1000 {
        feed(&mut decoder, &headers(OPEN, stream * 2 + 1, &fields), &mut out);
        feed(&mut decoder, &data(0, stream * 2 + 1, &"x".repeat(16_000)), &mut out);
        most = most.max(decoder.held_bytes());
        out.drain().for_each(drop);
    }
    assert!((MAX_HELD / 2..MAX_HELD + 200_000).contains(&most), "{most}");
    // A header list that never ends.
    feed(&mut decoder, &frame(1, 0, 9001, &[0x82]), &mut out);
    for _ in 0..1000 {
        feed(&mut decoder, &frame(9, 0, 9001, &vec![0x82; 16_000]), &mut out);
        feed(&mut decoder, &frame(9, 0, 9001, &[]), &mut out);
        most = most.max(decoder.held_bytes());
    }
    assert!(most < MAX_HELD + 2 * MAX_BLOCK, "{most}");
    // It was not decoded, but what follows is.
    out.drain().for_each(drop);
    feed(
        &mut decoder,
        &[frame(9, 4, 9001, &[0x82]), data(1, 9001, ""), get(END, 9003, "/")].concat(),
        &mut out,
    );
    let lines: Vec<String> = out.drain().map(|message| shown(&message)).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with(">9001 0-0 method=? address=? path=? header=?"), "{}", lines[0]);
    assert!(lines[1].starts_with(">9003 0-0 method=GET address=example port=8443 path=/"), "{}", lines[1]);
}

#[test]
fn frames_that_are_too_long_are_passed_over() {
    let long = vec![b'x'; MAX_BUFFERED + 1];
    let list = [list(&[(":method", "GET")]), vec![0x82; MAX_BUFFERED]].concat();
    let events = [
        up(&[preface(), frame(1, END, 1, &list)]),
        up(&[frame(0x55, 0, 0, &long), frame(7, 0, 0, &long), get(END, 3, "/")]),
    ];
    check(
        &client(),
        &events,
        &[
            ">1 1-1 method=? address=? path=? header=? violations=header list longer than 64 KiB in a frame, or \
             256 KiB in all ^",
            ">3 2-2 method=GET address=example port=8443 path=/",
        ],
    );
}

#[test]
fn late_frames_of_closed_streams_are_ignored() {
    let mut events = vec![up(&[preface()]), down(&[frame(4, 0, 0, &[])])];
    for number in 0..500_u32 {
        let stream = number * 2 + 1;
        events.push(up(&[get(END, stream, "/"), frame(3, 0, stream, &[0, 0, 0, 8])]));
        events.push(down(&[headers(OPEN, stream, &[(":status", "200")]), data(1, stream, "late")]));
    }
    let (messages, conversation) = run(&client(), &events, 1000);
    assert_eq!((messages.len(), conversation.held_bytes()), (1000, 0));
}
