/* The target of the measurements: a TLS connection with itself, in memory, driven by lines on standard
 * input. Each command prints one line:
 *   call SIZE BATCHES   -> "WRITE READ EMPTY": ns of CPU time per SSL_write, per SSL_read that finds SIZE
 *                          bytes, and per SSL_read that finds none
 *   load SIZE RATE MS   -> "CALLS NS": SSL_write alone, RATE times a second (0: as fast as possible)
 *   http VERSION RATE MS -> "EXCHANGES NS": exchanges of HTTP on a new connection, RATE times a second
 *   open COUNT          -> "COUNT": that many new connections, with an exchange of HTTP/1.1 each, stay open
 * Only batches of calls are timed, and they are paced so that a tracer can keep up: a tracer that loses data
 * does less work, and would look cheap. */
#include "tls.h"

#include "bench-http.h"

/* The bytes that a connection in memory has room for in each direction. */
enum { PAIR = 1 << 20, SMALL_PAIR = 1 << 15 };
enum { BATCH = 32, SIZE_MAX_CALL = 16384, BYTES_PER_SECOND = 40000000, CALLS_PER_SECOND = 25000 };

static unsigned char payload[SIZE_MAX_CALL], room[SIZE_MAX_CALL];

static uint64_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Text, like most payloads that people inspect. */
static void payload_fill(void) {
    static const char LINE[] = "{\"order\":42,\"item\":\"coffee\",\"state\":\"shipped\",\"note\":\"thank you\"}\n";
    for (size_t at = 0; at < sizeof payload; at++) payload[at] = (unsigned char)LINE[at % (sizeof LINE - 1)];
}

static void connect_pair(SSL **client, SSL **server, size_t room) {
    static SSL_CTX *client_context, *server_context;
    BIO *near, *far;
    if (client_context == NULL) {
        client_context = SSL_CTX_new(TLS_client_method());
        server_context = SSL_CTX_new(TLS_server_method());
        certificate_into(server_context);
        SSL_CTX_set_num_tickets(server_context, 0);
    }
    if (BIO_new_bio_pair(&near, room, &far, room) != 1) fail("no BIO pair");
    *client = SSL_new(client_context);
    *server = SSL_new(server_context);
    SSL_set_bio(*client, near, near);
    SSL_set_bio(*server, far, far);
    SSL_set_connect_state(*client);
    SSL_set_accept_state(*server);
    for (int turn = 0; turn < 10; turn++) {
        int done = SSL_do_handshake(*client);
        if (SSL_do_handshake(*server) == 1 && done == 1) return;
    }
    fail("no handshake");
}

/* Waits busily instead of sleeping: caches and clock frequency then are as under load when the next measurement
 * begins. */
static void spin_until(uint64_t time) {
    while (now(CLOCK_MONOTONIC) < time) {
    }
}

static void call(SSL *client, SSL *server, int size, long batches) {
    const clockid_t clock = CLOCK_THREAD_CPUTIME_ID;
    uint64_t spent[3] = {0, 0, 0};
    uint64_t by_bytes = (uint64_t)size * BATCH * 1000000000u / BYTES_PER_SECOND;
    uint64_t by_calls = (uint64_t)BATCH * 1000000000u / CALLS_PER_SECOND;
    uint64_t interval = by_bytes > by_calls ? by_bytes : by_calls, next = now(CLOCK_MONOTONIC);
    for (long batch = 0; batch < batches; batch++) {
        spin_until(next);
        next += interval;
        uint64_t begin = now(clock);
        for (int i = 0; i < BATCH; i++)
            if (SSL_write(client, payload, size) != size) fail("SSL_write");
        uint64_t written = now(clock);
        for (int i = 0; i < BATCH; i++)
            if (SSL_read(server, room, size) != size) fail("SSL_read");
        uint64_t read = now(clock);
        for (int i = 0; i < BATCH; i++)
            if (SSL_read(server, room, size) > 0) fail("SSL_read found data");
        uint64_t end = now(clock);
        spent[0] += written - begin;
        spent[1] += read - written;
        spent[2] += end - read;
    }
    double calls = (double)batches * BATCH;
    printf("%.1f %.1f %.1f\n", (double)spent[0] / calls, (double)spent[1] / calls, (double)spent[2] / calls);
}

static void load(SSL *ssl, int size, double rate, double ms) {
    uint64_t calls = 0, begin = now(CLOCK_MONOTONIC), end = begin + (uint64_t)(ms * 1e6), time = begin;
    while (time < end) {
        /* At most a millisecond's share of the calls at a time. */
        uint64_t due = rate > 0 ? (uint64_t)((double)(time - begin) * rate / 1e9) : UINT64_MAX;
        for (int i = 0; i < BATCH && calls < due; i++, calls++)
            if (SSL_write(ssl, payload, size) != size) fail("SSL_write");
        if (calls >= due) sleep_ms(1);
        time = now(CLOCK_MONOTONIC);
    }
    printf("%llu %llu\n", (unsigned long long)calls, (unsigned long long)(time - begin));
}

/* The other end receives a message. */
static void pass(SSL *from, SSL *to, const struct bytes *message) {
    int length = (int)message->length;
    if (SSL_write(from, message->data, length) != length) fail("SSL_write");
    if (SSL_read(to, room, sizeof room) != length) fail("SSL_read");
}

static void exchange(SSL *client, SSL *server, struct http *http, uint64_t number) {
    struct bytes *request, *response;
    http_exchange(http, number, &request, &response);
    pass(client, server, request);
    pass(server, client, response);
}

static void http(long version, double rate, double ms) {
    static struct http messages;
    SSL *client, *server;
    if (version == 2) {
        http2_make(&messages, payload);
    } else {
        http1_make(&messages, payload);
    }
    connect_pair(&client, &server, PAIR);
    uint64_t done = 0, begin = now(CLOCK_MONOTONIC), end = begin + (uint64_t)(ms * 1e6), time = begin;
    while (time < end) {
        uint64_t due = rate > 0 ? (uint64_t)((double)(time - begin) * rate / 1e9) : UINT64_MAX;
        for (int i = 0; i < BATCH && done < due; i++, done++) exchange(client, server, &messages, done);
        if (done >= due) sleep_ms(1);
        time = now(CLOCK_MONOTONIC);
    }
    SSL_free(client);
    SSL_free(server);
    printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(time - begin));
}

static void open_many(long count) {
    static struct http messages;
    http1_make(&messages, payload);
    for (long i = 0; i < count; i++) {
        SSL *client, *server;
        connect_pair(&client, &server, SMALL_PAIR);
        exchange(client, server, &messages, 0);
        /* As often as a tracer keeps up with. */
        if (i % BATCH == 0) sleep_ms(5);
    }
    printf("%ld\n", count);
}

int main(void) {
    SSL *client, *server, *source, *sink;
    payload_fill();
    connect_pair(&client, &server, PAIR);
    connect_pair(&source, &sink, PAIR);
    /* The output of the loaded connection is dropped. */
    SSL_set0_wbio(source, BIO_new(BIO_s_null()));
    printf("ready\n");
    fflush(stdout);
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        long size, batches;
        double rate, ms;
        long version, count;
        if (sscanf(line, "http %ld %lf %lf", &version, &rate, &ms) == 3) {
            http(version, rate, ms);
        } else if (sscanf(line, "open %ld", &count) == 1 && count > 0) {
            open_many(count);
        } else if (sscanf(line, "call %ld %ld", &size, &batches) == 2 && size > 0 && size <= SIZE_MAX_CALL) {
            call(client, server, (int)size, batches);
        } else if (sscanf(line, "load %ld %lf %lf", &size, &rate, &ms) == 3 && size > 0 && size <= SIZE_MAX_CALL) {
            load(source, (int)size, rate, ms);
        } else {
            fail("not understood: %s", line);
        }
        fflush(stdout);
    }
    return 0;
}
