//! What is hidden, and what of it is shown.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::event::FieldKind;
use crate::test_rng::TestRng;

fn redaction() -> Redaction {
    Redaction::new(Secrets::Redacted, ["X-Tenant", "trace_id"])
}

#[test]
fn header_fields() {
    let check = |name: &str, value: &str, expected: &str| {
        assert_eq!(redaction().header(Some(name), value), expected, "{name}: {value}");
    };
    // Credentials keep a scheme that is known.
    check("authorization", "Bearer abcdef", "Bearer ***(6)");
    check("Authorization", "basic  dXNlcjpwYXNz", "basic ***(12)");
    check("proxy-authorization", "Digest username=\"me\", nonce=\"1\"", "Digest ***(24)");
    check("authorization", "AWS4-HMAC-SHA256 Credential=AK/1, Signature=2", "AWS4-HMAC-SHA256 ***(28)");
    check("authorization", "abcdef", "***(6)");
    check("authorization", "hunter two", "***(10)");
    check("authorization", "Bearer", "***(6)");
    check("authorization", "", "");
    for name in [
        "x-api-key",
        "api-key",
        "X-Auth-Token",
        "x-amz-security-token",
        "x_csrf_token",
        "authentication-info",
        "x-goog-api-key",
        "private-token",
        "cf-access-jwt-assertion",
        "x-forwarded-authorization",
        "ocp-apim-subscription-key",
        "x-tenant",
    ] {
        check(name, "abcdef", "***(6)");
    }
    check("x-auth-token", "Token é", "Token ***(1)");
    // What is no secret is shown.
    for (name, value) in [
        ("content-type", "multipart/form-data; boundary=x"),
        ("www-authenticate", "Basic realm=\"a\""),
        ("x-continuation-token", "page-2"),
        ("user-agent", "curl/8.5.0"),
        ("referer", "https://host:8443/a?page=2&x=a@b"),
    ] {
        check(name, value, value);
    }
    // URLs in fields.
    check(
        "referer",
        "https://me:secret@host/a?token=abc&page=2",
        "https://me:***(6)@host/a?token=***(3)&page=2",
    );
    check("location", "/cb#access_token=abc&state=1", "/cb#access_token=***(3)&state=1");
    check("link", "<https://h/?sig=abc>; rel=next", "<https://h/?sig=***(14)");
    check(":authority", "me:secret@host:80", "me:***(6)@host:80");
    // Credentials among protocols.
    check("sec-websocket-protocol", "v4.channel.k8s.io", "v4.channel.k8s.io");
    check("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.abc, chat", "***(41), chat");
    check("sec-websocket-protocol", "graphql-ws, access_token, abc", "graphql-ws, access_token, ***(3)");
    // The name depends on bytes that were not captured.
    assert_eq!(redaction().header(None, "Bearer abc"), "Bearer ***(3)");
    assert_eq!(Redaction::new(Secrets::Shown, ["a"]).header(Some("cookie"), "a=b"), "a=b");
}

#[test]
fn cookies_keep_their_names() {
    let check = |name: &str, value: &str, expected: &str| {
        assert_eq!(redaction().header(Some(name), value), expected, "{name}: {value}");
    };
    check("cookie", "sid=abc; theme=dark;empty=; x", "sid=***(3); theme=***(4);empty=; ***(1)");
    check("cookie", "a=b=c; path=secret", "a=***(3); path=***(6)");
    check("cookie", "a=\"x; y=z\"; b=1", "a=***(8); b=***(1)");
    check("cookie", "a=\"x; y=z", "a=***(7)");
    check("set-cookie", "sid=abc; Path=/; HttpOnly", "sid=***(3); Path=/; HttpOnly");
    let expires = "sid=abc; Expires=Wed, 21 Oct 2026 07:28:00 GMT; SameSite=Lax";
    check("set-cookie", expires, &expires.replace("abc", "***(3)"));
    // An attribute of a name that is not known may be another cookie, and so may be what follows a comma.
    check("set-cookie", "a=b; note=abc; Path=/, c=d", "a=***(1); note=***(3); Path=***(6)");
    check("set-cookie", "path=abc; Secure", "path=***(3); Secure");
    check("set-cookie", "Secure", "***(6)");
}

#[test]
fn queries() {
    let check = |query: &str, expected: &str| {
        assert_eq!(redaction().query(query), expected, "{query}");
    };
    for name in [
        "token",
        "access_token",
        "id_token",
        "refresh_token",
        "sig",
        "signature",
        "key",
        "api_key",
        "apikey",
        "password",
        "passwd",
        "secret",
        "client_secret",
        "code",
        "auth",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "X-Goog-Signature",
        "accessToken",
        "p%61ssword",
        "p%2561ssword",
        "user[password]",
        "token[]",
        "auth.token",
        "to%00ken",
        "trace_id",
    ] {
        check(&format!("{name}=abc"), &format!("{name}=***(3)"));
        check(&format!("a=1&{name}=abc&b=2"), &format!("a=1&{name}=***(3)&b=2"));
    }
    for shown in ["", "a=1&b=2", "token", "token=", "page_token=2", "keyword=a", "q=a%20b&%%=%", "a==b"] {
        check(shown, shown);
    }
    // All of several.
    check("sig=a&sig=bc&&sig=d", "sig=***(1)&sig=***(2)&&sig=***(1)");
    // The value ends at `&` alone.
    check("token=a;b=c#d?e&f=g", "token=***(9)&f=g");
    check("a=1;token=b", "a=1;token=***(1)");
    check("a=1?token=b", "a=1?token=***(1)");
    // Encoded URLs and parameters within a parameter.
    check("next=%2Fcb%3Fcode%3Dabc&a=1", "next=***(18)&a=1");
    check("next=/cb?a=1%26token=abc", "next=***(19)");
    check("next=%252Fcb%253Fcode%253Dabc", "next=***(24)");
    check("next=https%3A%2F%2Fme%3Apw%40host%2F&a=1", "next=***(31)&a=1");
    check("token%3Dabc", "token***(6)");
    check("next=%2Fcb%3Fpage%3D2", "next=%2Fcb%3Fpage%3D2");
}

#[test]
fn urls() {
    let check = |url: &str, expected: &str| assert_eq!(redaction().url(url), expected, "{url}");
    check("https://user:hello@host/", "https://user:***(5)@host/");
    check("https://user:hello@host/a%20b", "https://user:***(5)@host/a%20b");
    check("https://a:b@c@host:80/x", "https://a:***(3)@host:80/x");
    check("https://ghp_token@host/", "https://***(9)@host/");
    check(
        "https://token:@host/ https://token:x-oauth-basic@host/",
        "https://***(6)@host/ https://***(19)@host/",
    );
    check("//me:pw@host/", "//me:***(2)@host/");
    check("https://me:p/w?x@host/y", "https://me:***(5)@host/y");
    check("https://me:/pw@host/", "https://me:***(3)@host/");
    for shown in ["https://[::1]:80/@", "https://host:80/a@b", "/a/b;v=1?c=d", "*", "host:443", "a@b.c"] {
        check(shown, shown);
    }
    check("/shop;jsessionid=abc?a=b", "/shop;jsessionid=***(7)");
    check("/a?b=c&password=d", "/a?b=c&password=***(1)");
}

#[test]
fn fields_and_overviews() {
    let field = |path, kind| Field { path, help: "", kind };
    let check = |path, value: FieldValue, expected: FieldValue| {
        let shown = redaction().value(&field(path, FieldKind::Text), &value).into_owned();
        assert!(shown == expected, "{path} {shown:?}");
        let shown =
            Redaction::new(Secrets::Shown, ["a"]).value(&field(path, FieldKind::Text), &value).into_owned();
        assert!(shown == value, "{path} {shown:?}");
    };
    let text = |text: &str| FieldValue::Text(text.to_owned());
    check("url.query", text("token=abc"), text("token=***(3)"));
    check("url.path", text("/token=abc"), text("/token=abc"));
    check("server.address", text("me:pw@host"), text("me:***(2)@host"));
    check("a", FieldValue::Number(5), FieldValue::Number(5));
    check("a", FieldValue::Unknown, FieldValue::Unknown);
    check("a", FieldValue::List(vec!["/?sig=a".into()]), FieldValue::List(vec!["/?sig=***(1)".into()]));
    let headers = |values: [Option<&str>; 3]| {
        let names = [Some("authorization"), None, Some("via")];
        let headers = names.into_iter().zip(values);
        FieldValue::Headers(
            headers
                .map(|(name, value)| HeaderField {
                    name: name.map(str::to_owned),
                    value: value.map(str::to_owned),
                })
                .collect(),
        )
    };
    check(
        "http.request.header",
        headers([Some("Bearer abc"), Some("abc"), None]),
        headers([Some("Bearer ***(3)"), Some("***(3)"), None]),
    );
    let overview = Overview {
        host: Some("me:pw@host".to_owned()),
        target: Some("/a?sig=b".to_owned()),
        ..Overview::default()
    };
    let shown = redaction().overview(overview);
    assert_eq!(shown.host.unwrap(), "me:***(2)@host");
    assert_eq!(shown.target.unwrap(), "/a?sig=***(1)");
}

/// Secrets of random characters, among them those that end other things, in all places.
#[test]
fn no_character_of_a_secret_remains() {
    let mut rng = TestRng(5_673_319);
    let redaction = redaction();
    let secret = |rng: &mut TestRng, without: &str| {
        let alphabet: Vec<char> =
            "QZXJQZXJ=;, \"#?/:@%+&|é\t".chars().filter(|c| !without.contains(*c)).collect();
        let length = 1 + rng.below(30);
        let chars = (0..length).map(|_| alphabet.get(rng.below(alphabet.len())).copied().unwrap());
        let text: String = chars.collect();
        text.trim().to_owned()
    };
    for _ in 0..4000 {
        let any = secret(&mut rng, "");
        let cookie = secret(&mut rng, ";");
        let quoted = secret(&mut rng, "\"");
        let parameter = secret(&mut rng, "&");
        // Where a `/` follows an `@`, the password may have ended.
        let password = if rng.below(2) == 0 { secret(&mut rng, "@") } else { secret(&mut rng, "/?#") };
        let encoded: String = any.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
        let shown = [
            redaction.header(Some("authorization"), &format!("Bearer {any}")).into_owned(),
            redaction.header(Some("x-api-key"), &any).into_owned(),
            redaction.header(None, &any).into_owned(),
            redaction.header(Some("cookie"), &format!("a={cookie}; b={cookie}")).into_owned(),
            redaction.header(Some("cookie"), &format!("a=\"{quoted}\"; b=1")).into_owned(),
            redaction.header(Some("set-cookie"), &format!("a={cookie}; Path=/")).into_owned(),
            redaction.header(Some("referer"), &format!("https://h/?a=1&token={parameter}&b=c")).into_owned(),
            redaction.header(Some("location"), &format!("/a#id_token={parameter}")).into_owned(),
            redaction.query(&format!("%70assword={parameter}&password={parameter}")).into_owned(),
            redaction.query(&format!("next=%2F%3Ftoken%3D{encoded}")).into_owned(),
            redaction.url(&format!("https://user:{password}@host/")).into_owned(),
        ];
        for shown in shown {
            assert!(!shown.contains(['Q', 'Z', 'X', 'J', 'é']), "{shown}");
        }
    }
}

/// Whatever a peer sends, this ends soon.
#[test]
fn hostile_texts() {
    for unit in ["://:", "://a:b@", "?a=", "%25", "%3F=", "&", ";[", "a=\"", "token=&", "//@", "%"] {
        let text = unit.repeat(20_000);
        for name in ["referer", "cookie", "set-cookie", "sec-websocket-protocol", ":authority"] {
            let shown = redaction().header(Some(name), &text).len();
            assert!(shown <= text.len() * 8, "{unit} {name} {shown}");
        }
        assert!(redaction().query(&text).len() <= text.len() * 8);
    }
    let mut rng = TestRng(77);
    for _ in 0..2000 {
        let text = String::from_utf8_lossy(&rng.bytes(b"a:/@?&;#=%25 \"token\xc3")).into_owned();
        redaction().url(&text);
        redaction().query(&text);
    }
}
