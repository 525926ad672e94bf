/* A TLS server on 127.0.0.1. The first line of a connection says what it does:
 *   "PLAN up=SIZES down=SIZES"  step by step: reads up[i] bytes, then sends down[i] bytes with one SSL_write
 *   "GET ..."                   answers as an HTTP server does, until the client closes
 * A client that offers HTTP/2 is answered in it.
 * With --fork each connection is served by a child that never executes anything, with --threads by a thread. */
#include "http2.h"
#include <getopt.h>
#include <pthread.h>
#include <sys/wait.h>

enum workers { WORKERS_NONE, WORKERS_FORK, WORKERS_THREAD };

struct options {
    int port, buffer, nonblocking, peek, partial, early;
    unsigned connections;
    enum api api;
    enum workers workers;
};

struct job {
    const struct options *options;
    SSL_CTX *context;
    int fd;
    unsigned number;
};

static const char RESPONSE_BODY[] = "{\"order\":42,\"item\":\"coffee\",\"state\":\"shipped\"}";

static void serve_http(struct peer *peer, char *request, size_t length) {
    char response[512];
    do {
        while (length < HEADER_MAX && !memmem(request, length, "\r\n\r\n", 4)) {
            size_t got = peer_read(peer, request + length, HEADER_MAX - length);
            if (got == 0) return;
            length += got;
        }
        int size = snprintf(response, sizeof response,
                            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                            sizeof RESPONSE_BODY - 1, RESPONSE_BODY);
        if (peer_write(peer, response, (size_t)size) != (size_t)size) return;
        length = peer_read(peer, request, HEADER_MAX);
    } while (length > 0);
}

static void serve_plan(struct peer *peer, const char *line, size_t surplus) {
    char up_text[HEADER_MAX], down_text[HEADER_MAX];
    if (sscanf(line, "PLAN up=%8191s down=%8191s", up_text, down_text) != 2) {
        fprintf(stderr, "not understood: %s\n", line);
        return;
    }
    struct sizes up = sizes_parse(up_text), down = sizes_parse(down_text);
    uint64_t seed = 0x9e3779b97f4a7c15u;
    int alive = 1;
    for (size_t step = 0; alive && (step < up.count || step < down.count); step++) {
        size_t expected = step < up.count ? up.size[step] : 0;
        size_t here = expected < surplus ? expected : surplus;
        surplus -= here;
        alive = peer_read_exactly(peer, expected - here);
        if (alive && step < down.count) {
            unsigned char *payload = malloc(down.size[step] + 1);
            fill(payload, down.size[step], &seed);
            alive = peer_write(peer, payload, down.size[step]) == down.size[step];
            free(payload);
        }
    }
    free(up.size);
    free(down.size);
    /* The client closes first: its close_notify ends the received data. */
    peer_read_exactly(peer, SIZE_MAX);
}

static void early_data(struct peer *peer) {
    unsigned char buffer[READ_SIZE];
    for (;;) {
        size_t length = 0;
        int state = SSL_read_early_data(peer->ssl, buffer, sizeof buffer, &length);
        if (state == SSL_READ_EARLY_DATA_FINISH) return;
        if (state == SSL_READ_EARLY_DATA_ERROR && !peer_again(peer, 0)) return;
        if (state == SSL_READ_EARLY_DATA_SUCCESS) tally_add(&peer->received, buffer, length);
    }
}

static void serve(const struct job *job) {
    struct peer peer = {.fd = job->fd, .api = job->options->api, .peek = job->options->peek};
    peer.ssl = SSL_new(job->context);
    SSL_set_fd(peer.ssl, peer.fd);
    tally_start(&peer.received);
    tally_start(&peer.sent);
    if (job->options->early) {
        SSL_set_accept_state(peer.ssl);
        early_data(&peer);
    }
    char header[HEADER_MAX + 1];
    size_t length = 0;
    char *end = NULL;
    int accepted = peer_repeat(&peer, SSL_accept);
    const unsigned char *protocol = NULL;
    unsigned protocol_length = 0;
    SSL_get0_alpn_selected(peer.ssl, &protocol, &protocol_length);
    if (accepted && protocol_length > 0) {
        http2_serve(&peer);
        SSL_shutdown(peer.ssl);
    } else if (accepted) {
        while (length < HEADER_MAX && end == NULL) {
            size_t got = peer_read(&peer, header + length, HEADER_MAX - length);
            if (got == 0) break;
            length += got;
            end = memchr(header, '\n', length);
        }
        if (end != NULL && strncmp(header, "GET ", 4) == 0) {
            serve_http(&peer, header, length);
        } else if (end != NULL) {
            *end = '\0';
            serve_plan(&peer, header, length - (size_t)(end + 1 - header));
        }
        SSL_shutdown(peer.ssl);
    }
    SSL_free(peer.ssl);
    close(peer.fd);
    flockfile(stdout);
    peer_report(&peer, "server", job->number);
    funlockfile(stdout);
}

static int select_http2(SSL *ssl, const unsigned char **selected, unsigned char *length, const unsigned char *offered,
                        unsigned offered_length, void *context) {
    (void)ssl, (void)context;
    int result = SSL_select_next_proto((unsigned char **)selected, length, (const unsigned char *)HTTP2_ALPN,
                                       sizeof HTTP2_ALPN - 1, offered, offered_length);
    return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static void *serve_thread(void *argument) {
    serve(argument);
    free(argument);
    return NULL;
}

static void dispatch(struct job job) {
    if (job.options->workers == WORKERS_THREAD) {
        struct job *copy = malloc(sizeof job);
        *copy = job;
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve_thread, copy) != 0) fail("cannot start a thread");
        pthread_detach(thread);
    } else if (job.options->workers == WORKERS_FORK) {
        pid_t child = fork();
        if (child < 0) fail("cannot fork: %s", strerror(errno));
        if (child == 0) {
            serve(&job);
            exit(0);
        }
        close(job.fd);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    } else {
        serve(&job);
    }
}

static struct options options_parse(int count, char **arguments) {
    struct options options = {.port = 0};
    const struct option known[] = {
        {"port", 1, NULL, 'p'},    {"api", 1, NULL, 'a'},     {"buffer", 1, NULL, 'b'},
        {"peek", 0, NULL, 'k'},    {"fork", 0, NULL, 'f'},    {"nonblocking", 0, NULL, 'n'},
        {"threads", 0, NULL, 't'}, {"partial", 0, NULL, 'w'}, {"connections", 1, NULL, 'c'},
        {"early", 0, NULL, 'e'},   {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'a': options.api = api_parse(optarg); break;
        case 'b': options.buffer = atoi(optarg); break;
        case 'c': options.connections = (unsigned)atoi(optarg); break;
        case 'k': options.peek = 1; break;
        case 'n': options.nonblocking = 1; break;
        case 'w': options.partial = 1; break;
        case 'e': options.early = 1; break;
        case 'f': options.workers = WORKERS_FORK; break;
        case 't': options.workers = WORKERS_THREAD; break;
        default: exit(2);
        }
    }
    return options;
}

static int listen_on(const struct options *options) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options->port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 64) != 0)
        fail("cannot listen on 127.0.0.1:%d: %s", options->port, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **arguments) {
    struct options options = options_parse(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    certificate_into(context);
    SSL_CTX_set_alpn_select_cb(context, select_http2, NULL);
    if (options.partial) SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE);
    if (options.early) SSL_CTX_set_max_early_data(context, 16384);
    int listener = listen_on(&options);
    for (unsigned number = 1; options.connections == 0 || number <= options.connections; number++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) fail("cannot accept: %s", strerror(errno));
        socket_options(fd, options.buffer, options.nonblocking);
        dispatch((struct job){&options, context, fd, number});
    }
    return 0;
}
