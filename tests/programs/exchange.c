/* A library that a running program loads: `exchange` speaks TLS with itself over a pair of sockets, and
 * prints what both sides moved. */
#include "tls.h"
#include <pthread.h>

static const char QUESTION[] = "what the client says first";

static void *serve(void *argument) {
    struct peer *peer = argument;
    static unsigned char answer[100000];
    uint64_t seed = 7;
    fill(answer, sizeof answer, &seed);
    if (!peer_repeat(peer, SSL_accept)) fail("no handshake");
    if (!peer_read_exactly(peer, sizeof QUESTION)) fail("no question");
    if (peer_write(peer, answer, sizeof answer) != sizeof answer) fail("no answer");
    /* Reads until the client has closed. */
    peer_read_exactly(peer, SIZE_MAX);
    return NULL;
}

static struct peer peer_of(const SSL_METHOD *method, int fd) {
    struct peer peer = {.fd = fd};
    SSL_CTX *context = SSL_CTX_new(method);
    certificate_into(context);
    SSL_CTX_set_num_tickets(context, 0);
    tally_start(&peer.received);
    tally_start(&peer.sent);
    peer.ssl = SSL_new(context);
    SSL_set_fd(peer.ssl, fd);
    return peer;
}

void exchange(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail("no pair of sockets");
    struct peer client = peer_of(TLS_client_method(), ends[0]), server = peer_of(TLS_server_method(), ends[1]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, &server) != 0) fail("no thread");
    if (!peer_repeat(&client, SSL_connect)) fail("no handshake");
    if (peer_write(&client, QUESTION, sizeof QUESTION) != sizeof QUESTION) fail("no question");
    if (!peer_read_exactly(&client, 100000)) fail("no answer");
    SSL_shutdown(client.ssl);
    shutdown(client.fd, SHUT_WR);
    pthread_join(thread, NULL);
    SSL_free(client.ssl);
    SSL_free(server.ssl);
    peer_report(&client, "client", 1);
    peer_report(&server, "server", 1);
}
