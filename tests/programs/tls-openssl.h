/* OpenSSL: a key that both sides know, so that no certificate is needed. */
#include <openssl/ssl.h>

struct peer {
    enum side side;
    int fd;
    SSL_CTX *context;
    SSL *ssl;
    unsigned calls;
};

static unsigned int key_into(unsigned char *key) {
    static const unsigned char known[] = "0123456789abcdef";
    memcpy(key, known, sizeof known);
    return sizeof known;
}

static unsigned int client_key(SSL *ssl, const char *hint, char *identity, unsigned int room, unsigned char *key,
                               unsigned int most) {
    (void)ssl, (void)hint, (void)most;
    strncpy(identity, "test", room);
    return key_into(key);
}

static unsigned int server_key(SSL *ssl, const char *identity, unsigned char *key, unsigned int most) {
    (void)ssl, (void)identity, (void)most;
    return key_into(key);
}

static void library_start(void) {
}

static void peer_open(struct peer *peer) {
    peer->context = SSL_CTX_new(peer->side == CLIENT ? TLS_client_method() : TLS_server_method());
    SSL_CTX_set_max_proto_version(peer->context, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(peer->context, "PSK");
    if (peer->side == CLIENT) {
        SSL_CTX_set_psk_client_callback(peer->context, client_key);
    } else {
        SSL_CTX_set_psk_server_callback(peer->context, server_key);
    }
    peer->ssl = SSL_new(peer->context);
    if (peer->ssl == NULL) fail("SSL_new");
    SSL_set_fd(peer->ssl, peer->fd);
}

static int peer_handshake(struct peer *peer) {
    return (peer->side == CLIENT ? SSL_connect(peer->ssl) : SSL_accept(peer->ssl)) == 1;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    size_t done = 0;
    if (peer->calls++ % 2 == 0) return SSL_write(peer->ssl, data, (int)length);
    return SSL_write_ex(peer->ssl, data, length, &done) == 1 ? (long)done : -1;
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    size_t done = 0;
    if (peer->calls++ % 2 == 0) return SSL_read(peer->ssl, data, (int)room);
    return SSL_read_ex(peer->ssl, data, room, &done) == 1 ? (long)done : -1;
}

static void peer_close(struct peer *peer) {
    SSL_shutdown(peer->ssl);
    SSL_free(peer->ssl);
    SSL_CTX_free(peer->context);
}
