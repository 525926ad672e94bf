/* Shared by the TLS programs of the tests: one connection whose bytes are counted and hashed in both
 * directions, and the ways to move them (the plain and the _ex calls, blocking and not). Each program prints
 * what it moved as one line of JSON, which the harness compares with what ctrace saw. Not an example of good
 * TLS: certificates are not verified. */
#ifndef TLS_H
#define TLS_H

#include "tally.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEADER_MAX 8192
#define READ_SIZE 65536

enum api { API_PLAIN, API_EX };

struct peer {
    SSL *ssl;
    int fd;
    enum api api;
    int peek; /* call SSL_peek before each read: the bytes must be reported once */
    struct tally received, sent;
};

static inline void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
}

static inline void peer_report(struct peer *peer, const char *side, unsigned connection) {
    report(&peer->received, &peer->sent, side, connection);
}

/* Whether to repeat the call once the socket is ready; 0 when the connection is closed. */
static inline int peer_again(struct peer *peer, int result) {
    int error = SSL_get_error(peer->ssl, result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return 0;
    struct pollfd ready = {peer->fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, 0};
    return poll(&ready, 1, 60000) == 1;
}

/* One SSL_write of everything, repeated as OpenSSL requires; less than `length` if the peer has closed. */
static inline size_t peer_write(struct peer *peer, const void *data, size_t length) {
    size_t done = 0;
    for (;;) {
        size_t written = 0;
        int result;
        if (peer->api == API_EX) {
            result = SSL_write_ex(peer->ssl, (const char *)data + done, length - done, &written);
        } else {
            result = SSL_write(peer->ssl, (const char *)data + done, (int)(length - done));
            written = result > 0 ? (size_t)result : 0;
        }
        tally_add(&peer->sent, (const char *)data + done, written);
        done += written;
        /* Whether an empty write succeeds depends on version and call: its result is ignored. */
        if (done >= length) return done;
        if (written == 0 && !peer_again(peer, result)) return done;
    }
}

static inline size_t peer_read(struct peer *peer, void *data, size_t room) {
    for (;;) {
        size_t length = 0;
        int result;
        if (peer->peek && peer->api == API_EX) {
            SSL_peek_ex(peer->ssl, data, room, &length);
        } else if (peer->peek) {
            SSL_peek(peer->ssl, data, (int)room);
        }
        if (peer->api == API_EX) {
            length = 0;
            result = SSL_read_ex(peer->ssl, data, room, &length);
        } else {
            result = SSL_read(peer->ssl, data, (int)room);
            length = result > 0 ? (size_t)result : 0;
        }
        if (length > 0) {
            tally_add(&peer->received, data, length);
            return length;
        }
        if (!peer_again(peer, result)) return 0;
    }
}

static inline int peer_read_exactly(struct peer *peer, size_t length) {
    static __thread unsigned char buffer[READ_SIZE];
    while (length > 0) {
        size_t got = peer_read(peer, buffer, length < sizeof buffer ? length : sizeof buffer);
        if (got == 0) return 0;
        length -= got;
    }
    return 1;
}

/* Handshake and shutdown: the calls of SSL_accept's kind, repeated until done. */
static inline int peer_repeat(struct peer *peer, int (*call)(SSL *)) {
    for (;;) {
        int result = call(peer->ssl);
        if (result == 1) return 1;
        if (!peer_again(peer, result)) return 0;
    }
}

static inline void socket_options(int fd, int buffer, int nonblocking) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (buffer > 0) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
    if (nonblocking) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static inline enum api api_parse(const char *text) {
    if (strcmp(text, "plain") == 0) return API_PLAIN;
    if (strcmp(text, "ex") == 0) return API_EX;
    fail("--api is plain or ex, not %s", text);
    return API_PLAIN;
}

/* A certificate for a server, made in memory: it needs no file. */
static inline void certificate_into(SSL_CTX *context) {
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    X509 *certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
    X509_NAME *name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_set_pubkey(certificate, key);
    if (!X509_sign(certificate, key, EVP_sha256())) fail("cannot sign a certificate");
    if (SSL_CTX_use_certificate(context, certificate) != 1 || SSL_CTX_use_PrivateKey(context, key) != 1)
        fail("cannot use the certificate");
    X509_free(certificate);
    EVP_PKEY_free(key);
}

#endif
