/* wolfSSL: a key that both sides know, so that no certificate is needed. Its headers conflict with
 * OpenSSL's, which the hashes need; so the functions used are declared here. */
typedef struct WOLFSSL_CTX WOLFSSL_CTX;
typedef struct WOLFSSL WOLFSSL;
typedef struct WOLFSSL_METHOD WOLFSSL_METHOD;
typedef unsigned int (*client_key_of)(WOLFSSL *, const char *, char *, unsigned int, unsigned char *, unsigned int);
typedef unsigned int (*server_key_of)(WOLFSSL *, const char *, unsigned char *, unsigned int);
int wolfSSL_Init(void);
WOLFSSL_METHOD *wolfTLSv1_2_client_method(void);
WOLFSSL_METHOD *wolfTLSv1_2_server_method(void);
WOLFSSL_CTX *wolfSSL_CTX_new(WOLFSSL_METHOD *);
void wolfSSL_CTX_free(WOLFSSL_CTX *);
void wolfSSL_CTX_set_psk_client_callback(WOLFSSL_CTX *, client_key_of);
void wolfSSL_CTX_set_psk_server_callback(WOLFSSL_CTX *, server_key_of);
WOLFSSL *wolfSSL_new(WOLFSSL_CTX *);
void wolfSSL_free(WOLFSSL *);
int wolfSSL_set_fd(WOLFSSL *, int);
int wolfSSL_connect(WOLFSSL *);
int wolfSSL_accept(WOLFSSL *);
int wolfSSL_shutdown(WOLFSSL *);
int wolfSSL_read(WOLFSSL *, void *, int);
int wolfSSL_peek(WOLFSSL *, void *, int);
int wolfSSL_recv(WOLFSSL *, void *, int, int);
int wolfSSL_write(WOLFSSL *, const void *, int);
int wolfSSL_send(WOLFSSL *, const void *, int, int);

struct peer {
    enum side side;
    int fd;
    WOLFSSL_CTX *context;
    WOLFSSL *ssl;
    unsigned calls;
};

static unsigned int key_into(unsigned char *key) {
    static const unsigned char known[] = "0123456789abcdef";
    memcpy(key, known, sizeof known);
    return sizeof known;
}

static unsigned int client_key(WOLFSSL *ssl, const char *hint, char *identity, unsigned int room, unsigned char *key,
                               unsigned int most) {
    (void)ssl, (void)hint, (void)most;
    strncpy(identity, "test", room);
    return key_into(key);
}

static unsigned int server_key(WOLFSSL *ssl, const char *identity, unsigned char *key, unsigned int most) {
    (void)ssl, (void)identity, (void)most;
    return key_into(key);
}

static void library_start(void) {
    wolfSSL_Init();
}

static void peer_open(struct peer *peer) {
    peer->context = wolfSSL_CTX_new(peer->side == CLIENT ? wolfTLSv1_2_client_method() : wolfTLSv1_2_server_method());
    if (peer->side == CLIENT) {
        wolfSSL_CTX_set_psk_client_callback(peer->context, client_key);
    } else {
        wolfSSL_CTX_set_psk_server_callback(peer->context, server_key);
    }
    peer->ssl = wolfSSL_new(peer->context);
    if (peer->ssl == NULL) fail("wolfSSL_new");
    wolfSSL_set_fd(peer->ssl, peer->fd);
}

static int peer_handshake(struct peer *peer) {
    return (peer->side == CLIENT ? wolfSSL_connect(peer->ssl) : wolfSSL_accept(peer->ssl)) == 1;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    if (peer->calls++ % 2 == 0) return wolfSSL_write(peer->ssl, data, (int)length);
    return wolfSSL_send(peer->ssl, data, (int)length, 0);
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    // The same bytes come again.
    wolfSSL_peek(peer->ssl, data, (int)room);
    if (peer->calls++ % 2 == 0) return wolfSSL_read(peer->ssl, data, (int)room);
    return wolfSSL_recv(peer->ssl, data, (int)room, 0);
}

static void peer_close(struct peer *peer) {
    wolfSSL_shutdown(peer->ssl);
    wolfSSL_free(peer->ssl);
    wolfSSL_CTX_free(peer->context);
}
