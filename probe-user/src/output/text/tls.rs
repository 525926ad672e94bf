//! What a handshake says, on the line where it is known first.

use super::escape;
use crate::event::Tls;

/// `TLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 sni=example.org alpn=h2 `; protocols that are only
/// offered have commas between them and a question mark.
pub(super) fn facts(tls: &Tls, line: &mut String) {
    let Tls { protocol, cipher, server_name, offered, next_protocol } = tls;
    if let Some(protocol) = protocol {
        for part in [&protocol.name().to_uppercase(), " ", protocol.version(), " "] {
            line.push_str(part);
        }
    }
    if let Some(cipher) = cipher {
        escape::name(cipher.as_bytes(), line);
        line.push(' ');
    }
    if let Some(name) = server_name {
        word("sni=", name, line);
        line.push(' ');
    }
    if let Some(protocol) = next_protocol {
        word("alpn=", protocol, line);
        line.push(' ');
    } else if let Some(offered) = offered {
        word("alpn=", &offered.join(","), line);
        line.push_str("? ");
    }
}

fn word(label: &str, value: &str, line: &mut String) {
    line.push_str(label);
    escape::name(value.as_bytes(), line);
}
