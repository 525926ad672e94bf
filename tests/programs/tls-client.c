/* A TLS client of tls-server. It sends the sizes of --up and receives those of --down in turn (one SSL_write
 * per size), or sends the bytes of --text, or HTTP requests for as long as it lives: on one connection
 * (--http MS), or some at once in HTTP/2 on each of many connections (--http2 MS). It prints what it moved at
 * the end. */
#include "http2.h"
#include <getopt.h>
#include <sys/prctl.h>

struct options {
    const char *up, *down, *text, *early;
    int port, buffer, nonblocking, peek, requests;
    long sleep, delay, http, http2;
    unsigned connections;
    enum api api;
};

static const char REQUEST[] = "GET /orders/42 HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer s3cr3t\r\n"
                              "Accept: application/json\r\n\r\n";

/* "\xHH" and "\n" as bytes, so that any byte can be given on a command line; in place. */
static size_t unescape(char *text) {
    char *to = text;
    unsigned value;
    for (const char *from = text; *from; to++) {
        if (sscanf(from, "\\x%2x", &value) == 1) {
            *to = (char)value;
            from += 4;
        } else if (strncmp(from, "\\n", 2) == 0) {
            *to = '\n';
            from += 2;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
    return (size_t)(to - text);
}

/* Closes as a peer should: closing with unread session tickets would reset the connection before the last data
 * arrived. */
static void leave(struct peer *peer) {
    SSL_shutdown(peer->ssl);
    peer_read_exactly(peer, SIZE_MAX);
    SSL_free(peer->ssl);
    close(peer->fd);
}

static int connect_to(const struct options *options) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to 127.0.0.1:%d: %s", options->port, strerror(errno));
    socket_options(fd, options->buffer, options->nonblocking);
    return fd;
}

static void run_plan(struct peer *peer, const struct options *options) {
    char header[HEADER_MAX];
    int size = snprintf(header, sizeof header, "PLAN up=%s down=%s\n", options->up, options->down);
    if (size >= HEADER_MAX) fail("the lists of sizes are too long");
    if (peer_write(peer, header, (size_t)size) != (size_t)size) fail("cannot send the header");
    struct sizes up = sizes_parse(options->up), down = sizes_parse(options->down);
    uint64_t seed = 0xd1b54a32d192ed03u ^ (uint64_t)getpid();
    for (size_t step = 0; step < up.count || step < down.count; step++) {
        if (step > 0 && options->sleep > 0) sleep_ms(options->sleep);
        if (step < up.count) {
            unsigned char *payload = malloc(up.size[step] + 1);
            fill(payload, up.size[step], &seed);
            if (options->text) memcpy(payload, options->text, up.size[step]);
            if (peer_write(peer, payload, up.size[step]) != up.size[step]) fail("cannot send step %zu", step);
            free(payload);
        }
        if (step < down.count && !peer_read_exactly(peer, down.size[step])) fail("cannot receive step %zu", step);
    }
    free(up.size);
    free(down.size);
}

static void run_http(struct peer *peer, const struct options *options) {
    char response[HEADER_MAX];
    for (int request = 0; options->requests == 0 || request < options->requests; request++) {
        if (request > 0) sleep_ms(options->http);
        if (peer_write(peer, REQUEST, sizeof REQUEST - 1) != sizeof REQUEST - 1) return;
        if (peer_read(peer, response, sizeof response) == 0) return;
    }
}

/* Early data needs a session of an earlier connection to the same server. */
static SSL_SESSION *session_of_first(SSL_CTX *context, const struct options *options) {
    struct peer peer = {.fd = connect_to(options), .api = options->api};
    tally_start(&peer.received);
    tally_start(&peer.sent);
    peer.ssl = SSL_new(context);
    SSL_set_fd(peer.ssl, peer.fd);
    if (!peer_repeat(&peer, SSL_connect)) fail("cannot connect for a session");
    /* The ticket comes after the handshake; a byte of data makes the client read it. */
    static const char header[] = "PLAN up=- down=1\n";
    peer_write(&peer, header, sizeof header - 1);
    if (!peer_read_exactly(&peer, 1)) fail("cannot read for a session");
    SSL_SESSION *session = SSL_get1_session(peer.ssl);
    leave(&peer);
    peer_report(&peer, "client", 0);
    return session;
}

static void send_early(struct peer *peer, SSL_SESSION *session, const char *text) {
    size_t written = 0, length = strlen(text);
    SSL_set_session(peer->ssl, session);
    if (SSL_write_early_data(peer->ssl, text, length, &written) != 1 || written != length)
        fail("cannot send early data");
    tally_add(&peer->sent, text, written);
}

static void run_connection(SSL_CTX *context, const struct options *options, unsigned number) {
    SSL_SESSION *session = options->early ? session_of_first(context, options) : NULL;
    struct peer peer = {.fd = connect_to(options), .api = options->api, .peek = options->peek};
    tally_start(&peer.received);
    tally_start(&peer.sent);
    peer.ssl = SSL_new(context);
    SSL_set_fd(peer.ssl, peer.fd);
    if (session) send_early(&peer, session, options->early);
    if (options->http2 > 0) SSL_set_alpn_protos(peer.ssl, (const unsigned char *)HTTP2_ALPN, sizeof HTTP2_ALPN - 1);
    if (!peer_repeat(&peer, SSL_connect)) fail("the handshake failed");
    if (options->http2 > 0) {
        http2_ask(&peer);
    } else if (options->http > 0) {
        run_http(&peer, options);
    } else {
        run_plan(&peer, options);
    }
    leave(&peer);
    peer_report(&peer, "client", number);
}

static struct options options_parse(int count, char **arguments) {
    static char up_of_text[32];
    struct options options = {.up = "-", .down = "-", .connections = 1};
    const struct option known[] = {
        {"port", 1, NULL, 'p'},        {"api", 1, NULL, 'a'},   {"buffer", 1, NULL, 'b'}, {"peek", 0, NULL, 'k'},
        {"nonblocking", 0, NULL, 'n'}, {"up", 1, NULL, 'u'},    {"down", 1, NULL, 'd'},   {"text", 1, NULL, 't'},
        {"sleep", 1, NULL, 's'},       {"delay", 1, NULL, 'y'}, {"comm", 1, NULL, 'm'},   {"http", 1, NULL, 'h'},
        {"connections", 1, NULL, 'c'}, {"early", 1, NULL, 'e'}, {"requests", 1, NULL, 'r'}, {"http2", 1, NULL, '2'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'a': options.api = api_parse(optarg); break;
        case 'b': options.buffer = atoi(optarg); break;
        case 'k': options.peek = 1; break;
        case 'n': options.nonblocking = 1; break;
        case 'u': options.up = optarg; break;
        case 'd': options.down = optarg; break;
        case 's': options.sleep = atol(optarg); break;
        case 'y': options.delay = atol(optarg); break;
        case 'h': options.http = atol(optarg); break;
        case '2': options.http2 = atol(optarg); break;
        case 'r': options.requests = atoi(optarg); break;
        case 'c': options.connections = (unsigned)atoi(optarg); break;
        case 'e': options.early = optarg; break;
        case 'm':
            unescape(optarg);
            prctl(PR_SET_NAME, optarg);
            break;
        case 't':
            snprintf(up_of_text, sizeof up_of_text, "%zu", unescape(optarg));
            options.up = up_of_text;
            options.text = optarg;
            break;
        default: exit(2);
        }
    }
    return options;
}

int main(int count, char **arguments) {
    struct options options = options_parse(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (options.delay > 0) sleep_ms(options.delay);
    for (unsigned number = 1; options.http2 > 0 || number <= options.connections; number++) {
        run_connection(context, &options, number);
        if (options.http2 > 0) sleep_ms(options.http2);
    }
    SSL_CTX_free(context);
    return 0;
}
