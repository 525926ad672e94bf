/* BearSSL. The server's key is made before the process forks, so that the client knows it. The certificate
 * that the server sends is ignored. */
#include <bearssl.h>

struct peer {
    enum side side;
    int fd;
    br_ssl_client_context client;
    br_ssl_server_context server;
    br_x509_minimal_context x509;
    br_x509_knownkey_context known;
    br_ssl_engine_context *engine;
    br_sslio_context io;
    unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
};

static unsigned char private_bytes[BR_EC_KBUF_PRIV_MAX_SIZE], public_bytes[BR_EC_KBUF_PUB_MAX_SIZE];
static br_ec_private_key private_key;
static br_ec_public_key public_key;
static const br_x509_certificate chain = {(unsigned char *)"none", 4};

static void library_start(void) {
    br_hmac_drbg_context random;
    br_hmac_drbg_init(&random, &br_sha256_vtable, "test", 4);
    const br_ec_impl *curves = br_ec_get_default();
    if (br_ec_keygen(&random.vtable, curves, &private_key, private_bytes, BR_EC_secp256r1) == 0) fail("br_ec_keygen");
    if (br_ec_compute_pub(curves, &public_key, public_bytes, &private_key) == 0) fail("br_ec_compute_pub");
}

static int socket_read(void *context, unsigned char *data, size_t length) {
    ssize_t count = read(*(int *)context, data, length);
    return count > 0 ? (int)count : -1;
}

static int socket_write(void *context, const unsigned char *data, size_t length) {
    return (int)write(*(int *)context, data, length);
}

static void peer_open(struct peer *peer) {
    if (peer->side == CLIENT) {
        br_ssl_client_init_full(&peer->client, &peer->x509, NULL, 0);
        br_x509_knownkey_init_ec(&peer->known, &public_key, BR_KEYTYPE_SIGN | BR_KEYTYPE_KEYX);
        peer->engine = &peer->client.eng;
        br_ssl_engine_set_x509(peer->engine, &peer->known.vtable);
    } else {
        br_ssl_server_init_full_ec(&peer->server, &chain, 1, BR_KEYTYPE_EC, &private_key);
        peer->engine = &peer->server.eng;
    }
    br_ssl_engine_set_buffer(peer->engine, peer->buffer, sizeof peer->buffer, 1);
    int done = peer->side == CLIENT ? br_ssl_client_reset(&peer->client, "test", 0) : br_ssl_server_reset(&peer->server);
    if (!done) fail("reset: %d", br_ssl_engine_last_error(peer->engine));
    br_sslio_init(&peer->io, peer->engine, socket_read, &peer->fd, socket_write, &peer->fd);
}

static int peer_handshake(struct peer *peer) {
    return br_sslio_flush(&peer->io) == 0;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    int count = br_sslio_write(&peer->io, data, length);
    return br_sslio_flush(&peer->io) == 0 ? count : -1;
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    return br_sslio_read(&peer->io, data, room);
}

/* Closes without a message: the side that closes second would find no peer to answer. */
static void peer_close(struct peer *peer) {
    (void)peer;
}
