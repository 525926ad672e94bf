//! Streams that are connections of their own.

use super::*;

#[test]
fn a_connection_to_another_host() {
    let connect = headers(OPEN, 1, &[(":method", "CONNECT"), (":authority", "example:443")]);
    let inner = [preface(), get(END, 1, "/inner")].concat();
    let answer = [frame(4, 0, 0, &[]), headers(END, 1, &[(":status", "404")])].concat();
    let split = inner.len() / 2;
    let events = [
        up(&[preface()]),
        down(&[frame(4, 0, 0, &[])]),
        up(&[connect]),
        down(&[headers(OPEN, 1, &[(":status", "200")])]),
        up(&[frame(0, 0, 1, &inner[..split]), get(END, 3, "/outer"), frame(0, 0, 1, &inner[split..])]),
        down(&[frame(0, 1, 1, &answer), headers(END, 3, &[(":status", "200")])]),
        up(&[frame(0, 1, 1, &[])]),
    ];
    let expected = [
        ">1 3-3 method=CONNECT address=example port=443",
        "<1 4-4 status_code=200",
        ">3 5-5 method=GET address=example port=8443 path=/outer",
        ">1 5-5 method=GET address=example port=8443 path=/inner",
        "<1 6-6 status_code=404 type=404",
        "<3 6-6 status_code=200",
    ];
    check(&client(), &events, &expected);
    let (messages, _) = run(&client(), &events, 1000);
    // The two exchanges with the id 1 are told apart.
    assert_eq!(messages[0].key(), messages[1].key());
    assert_eq!(messages[3].key(), messages[4].key());
    assert_ne!(messages[0].key(), messages[3].key());
}

#[test]
fn a_connection_that_is_refused() {
    let connect = headers(OPEN, 1, &[(":method", "CONNECT"), (":authority", "example")]);
    check(
        &client(),
        &[
            up(&[preface()]),
            down(&[frame(4, 0, 0, &[])]),
            up(&[connect]),
            down(&[headers(OPEN, 1, &[(":status", "403")]), data(1, 1, "no")]),
            up(&[data(1, 1, "")]),
        ],
        &["<1 4-4 status_code=403 size=2 type=403 \"no\"", ">1 3-5 method=CONNECT address=example"],
    );
}

/// A connection that begins as HTTP/1, and whose first request is answered in stream 1 (RFC 7540, 3.2).
#[test]
fn an_upgrade_without_tls() {
    let request = "GET /one HTTP/1.1\r\nHost: example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let hints = Hints { alpn: None, ..client() };
    let events = [
        up(&[request.as_bytes().to_vec()]),
        down(&[switched.as_bytes().to_vec(), frame(4, 0, 0, &[]), headers(END, 1, &[(":status", "200")])]),
        up(&[preface(), get(END, 3, "/two")]),
        down(&[headers(END, 3, &[(":status", "404")])]),
    ];
    let (messages, conversation) = run(&hints, &events, 1000);
    let lines: Vec<String> = messages.iter().skip(2).map(shown).collect();
    assert_eq!((messages[0].kind, messages[1].kind), (MessageKind::Request, MessageKind::Event));
    assert_eq!(messages[0].key(), messages[2].key());
    assert_eq!(messages[3].key(), messages[4].key());
    assert_ne!(messages[0].key(), messages[3].key());
    let expected = [
        "<1 2-2 status_code=200",
        ">3 3-3 method=GET address=example port=8443 path=/two",
        "<3 4-4 status_code=404 type=404",
    ];
    assert_eq!((lines, conversation.undecoded_bytes()), (expected.map(str::to_owned).to_vec(), 0));
}
