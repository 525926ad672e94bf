/* GnuTLS: anonymous key exchange, so that no certificate is needed. Functions for the same purpose are
 * called in turn. Reports what the handshake has agreed on. */
#include <gnutls/gnutls.h>

struct peer {
    enum side side;
    int fd;
    gnutls_session_t session;
    unsigned calls;
};

static gnutls_anon_client_credentials_t client_credentials;
static gnutls_anon_server_credentials_t server_credentials;

static void library_start(void) {
    gnutls_anon_allocate_client_credentials(&client_credentials);
    gnutls_anon_allocate_server_credentials(&server_credentials);
}

static void peer_open(struct peer *peer) {
    if (gnutls_init(&peer->session, peer->side == CLIENT ? GNUTLS_CLIENT : GNUTLS_SERVER) != 0) fail("gnutls_init");
    gnutls_priority_set_direct(peer->session, "NORMAL:-VERS-ALL:+VERS-TLS1.2:+ANON-ECDH:+ANON-DH", NULL);
    if (peer->side == CLIENT) {
        gnutls_credentials_set(peer->session, GNUTLS_CRD_ANON, client_credentials);
    } else {
        gnutls_credentials_set(peer->session, GNUTLS_CRD_ANON, server_credentials);
    }
    gnutls_transport_set_int(peer->session, peer->fd);
    const gnutls_datum_t protocols[] = {{(unsigned char *)"first", 5}, {(unsigned char *)"second", 6}};
    if (peer->side == CLIENT) {
        gnutls_server_name_set(peer->session, GNUTLS_NAME_DNS, "hello.test", 10);
        gnutls_alpn_set_protocols(peer->session, protocols, 2, 0);
    } else {
        gnutls_alpn_set_protocols(peer->session, protocols + 1, 1, 0);
    }
}

static int peer_handshake(struct peer *peer) {
    int result;
    do {
        result = gnutls_handshake(peer->session);
    } while (result < 0 && gnutls_error_is_fatal(result) == 0);
    gnutls_datum_t protocol = {NULL, 0};
    gnutls_alpn_get_selected_protocol(peer->session, &protocol);
    const char *version = gnutls_protocol_get_name(gnutls_protocol_get_version(peer->session));
    const char *cipher = gnutls_ciphersuite_get(peer->session);
    printf("tls {\"side\":\"%s\",\"version\":\"%s\",\"cipher\":\"%s\",\"alpn\":\"%.*s\"}\n",
           peer->side == CLIENT ? "client" : "server", version + strlen("TLS"), cipher, (int)protocol.size,
           (const char *)protocol.data);
    fflush(stdout);
    return result == 0;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    if (peer->calls++ % 2 == 0) return gnutls_record_send(peer->session, data, length);
    return gnutls_record_send2(peer->session, data, length, 0, 0);
}

/* A packet is a whole record: the rest of a partly read record must be read in another way. */
static long receive_packet(struct peer *peer, void *data, size_t room) {
    gnutls_packet_t packet;
    gnutls_datum_t bytes, again;
    if (gnutls_record_check_pending(peer->session) > 0 || room < 16384) return gnutls_record_recv(peer->session, data, room);
    ssize_t count = gnutls_record_recv_packet(peer->session, &packet);
    if (count <= 0) return count;
    gnutls_packet_get(packet, &bytes, NULL);
    memcpy(data, bytes.data, bytes.size);
    gnutls_packet_get(packet, &again, NULL);
    gnutls_packet_deinit(packet);
    return bytes.size;
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    unsigned char sequence[8];
    switch (peer->calls++ % 3) {
    case 0: return gnutls_record_recv(peer->session, data, room);
    case 1: return gnutls_record_recv_seq(peer->session, data, room, sequence);
    default: return receive_packet(peer, data, room);
    }
}

static void peer_close(struct peer *peer) {
    gnutls_bye(peer->session, GNUTLS_SHUT_WR);
    gnutls_deinit(peer->session);
}
