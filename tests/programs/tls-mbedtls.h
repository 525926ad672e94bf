/* Mbed TLS: a key that both sides know, so that no certificate is needed. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>

struct peer {
    enum side side;
    int fd;
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config config;
    mbedtls_net_context net;
};

static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context random_numbers;

static void library_start(void) {
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random_numbers);
    if (mbedtls_ctr_drbg_seed(&random_numbers, mbedtls_entropy_func, &entropy, NULL, 0) != 0) fail("no random numbers");
}

static void peer_open(struct peer *peer) {
    static const unsigned char key[] = "0123456789abcdef", identity[] = "test";
    mbedtls_ssl_config_init(&peer->config);
    mbedtls_ssl_config_defaults(&peer->config, peer->side == CLIENT ? MBEDTLS_SSL_IS_CLIENT : MBEDTLS_SSL_IS_SERVER,
                                MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    mbedtls_ssl_conf_rng(&peer->config, mbedtls_ctr_drbg_random, &random_numbers);
    mbedtls_ssl_conf_psk(&peer->config, key, sizeof key, identity, sizeof identity - 1);
    mbedtls_ssl_init(&peer->ssl);
    if (mbedtls_ssl_setup(&peer->ssl, &peer->config) != 0) fail("mbedtls_ssl_setup");
    peer->net.fd = peer->fd;
    mbedtls_ssl_set_bio(&peer->ssl, &peer->net, mbedtls_net_send, mbedtls_net_recv, NULL);
}

static int peer_handshake(struct peer *peer) {
    return mbedtls_ssl_handshake(&peer->ssl) == 0;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    return mbedtls_ssl_write(&peer->ssl, data, length);
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    return mbedtls_ssl_read(&peer->ssl, data, room);
}

static void peer_close(struct peer *peer) {
    mbedtls_ssl_close_notify(&peer->ssl);
    mbedtls_ssl_free(&peer->ssl);
    mbedtls_ssl_config_free(&peer->config);
}
