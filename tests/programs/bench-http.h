/* Exchanges of HTTP for the measurements: a request and a response with a body of 1 KiB, in HTTP/1.1 and in
 * HTTP/2. The bytes are made once; of HTTP/2 only the number of the stream changes. Header fields of HTTP/2 are
 * literal in the first exchange of a connection, and refer to those entries afterwards, as clients and servers
 * have it. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <stdint.h>
#include <string.h>

enum { HTTP_BODY = 1024, HTTP_MOST = 2048 };

struct bytes {
    size_t length;
    unsigned char data[HTTP_MOST];
};

/* What both ends send in an exchange. `first` is that of the first exchange of a connection. */
struct http {
    struct bytes first_request, first_response, request, response;
    /* Where the numbers of the stream are, which is only in HTTP/2. 0: nowhere. */
    size_t request_streams[1], response_streams[2], first_request_streams[1], first_response_streams[2];
};

static inline void bytes_add(struct bytes *to, const void *data, size_t length) {
    if (to->length + length > sizeof to->data) fail("too long");
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

static inline void bytes_text(struct bytes *to, const char *text) { bytes_add(to, text, strlen(text)); }

/* A literal header field with a name of the static table, which is added to the dynamic one. */
static inline void hpack_literal(struct bytes *to, unsigned char name, const char *value) {
    unsigned char head[2] = {(unsigned char)(0x40 | name), (unsigned char)strlen(value)};
    bytes_add(to, head, sizeof head);
    bytes_text(to, value);
}

/* A frame. Returns where its stream is. */
static inline size_t frame_add(struct bytes *to, unsigned char type, unsigned char flags, const void *payload,
                               size_t length) {
    unsigned char head[9] = {0, (unsigned char)(length >> 8), (unsigned char)length, type, flags};
    bytes_add(to, head, sizeof head);
    bytes_add(to, payload, length);
    return to->length - length - 4;
}

static inline void http1_make(struct http *http, const unsigned char *body) {
    memset(http, 0, sizeof *http);
    bytes_text(&http->request, "GET /orders/42?page=2 HTTP/1.1\r\nHost: localhost:8443\r\n"
                               "User-Agent: bench/1.0\r\nAccept: */*\r\n\r\n");
    bytes_text(&http->response, "HTTP/1.1 200 OK\r\nServer: bench/1.0\r\nDate: Tue, 01 Dec 2026 00:00:00 GMT\r\n"
                                "Content-Type: application/json\r\nContent-Length: 1024\r\n"
                                "Connection: keep-alive\r\n\r\n");
    bytes_add(&http->response, body, HTTP_BODY);
    http->first_request = http->request;
    http->first_response = http->response;
}

static inline void http2_make(struct http *http, const unsigned char *body) {
    enum { DATA = 0, HEADERS = 1, SETTINGS = 4, END_STREAM = 1, END_HEADERS = 4 };
    struct bytes fields = {0, {0}};
    memset(http, 0, sizeof *http);
    bytes_text(&http->first_request, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frame_add(&http->first_request, SETTINGS, 0, "", 0);
    bytes_add(&fields, "\x82\x87", 2); /* :method GET, :scheme https */
    hpack_literal(&fields, 1, "localhost:8443");
    hpack_literal(&fields, 58, "bench/1.0");
    hpack_literal(&fields, 4, "/orders/42?page=2");
    http->first_request_streams[0] =
        frame_add(&http->first_request, HEADERS, END_STREAM | END_HEADERS, fields.data, fields.length);
    http->request_streams[0] = frame_add(&http->request, HEADERS, END_STREAM | END_HEADERS, "\x82\x87\xc0\xbf\xbe", 5);

    frame_add(&http->first_response, SETTINGS, 0, "", 0);
    fields.length = 0;
    bytes_add(&fields, "\x88", 1); /* :status 200 */
    hpack_literal(&fields, 54, "bench/1.0");
    hpack_literal(&fields, 33, "Tue, 01 Dec 2026 00:00:00 GMT");
    hpack_literal(&fields, 31, "application/json");
    hpack_literal(&fields, 28, "1024");
    http->first_response_streams[0] =
        frame_add(&http->first_response, HEADERS, END_HEADERS, fields.data, fields.length);
    http->first_response_streams[1] = frame_add(&http->first_response, DATA, END_STREAM, body, HTTP_BODY);
    http->response_streams[0] = frame_add(&http->response, HEADERS, END_HEADERS, "\x88\xc1\xc0\xbf\xbe", 5);
    http->response_streams[1] = frame_add(&http->response, DATA, END_STREAM, body, HTTP_BODY);
}

static inline void stream_set(struct bytes *of, size_t at, uint32_t stream) {
    if (at == 0) return;
    for (int byte = 0; byte < 4; byte++) of->data[at + (size_t)byte] = (unsigned char)(stream >> (24 - 8 * byte));
}

/* The messages of exchange `number`, which counts from 0, on a connection. */
static inline void http_exchange(struct http *http, uint64_t number, struct bytes **request,
                                 struct bytes **response) {
    uint32_t stream = (uint32_t)(2 * number + 1);
    *request = number == 0 ? &http->first_request : &http->request;
    *response = number == 0 ? &http->first_response : &http->response;
    stream_set(*request, (number == 0 ? http->first_request_streams : http->request_streams)[0], stream);
    for (int frame = 0; frame < 2; frame++)
        stream_set(*response, (number == 0 ? http->first_response_streams : http->response_streams)[frame], stream);
}

#endif
