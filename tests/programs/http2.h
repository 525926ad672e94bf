/* Exchanges of HTTP/2, by libnghttp2, on a connection of tls.h: what a shop answers, and what its customers ask
 * for, three requests at once. */
#ifndef HTTP2_H
#define HTTP2_H

#include "tls.h"

#include <nghttp2/nghttp2.h>

/* The protocol's name in ALPN, with its length. */
#define HTTP2_ALPN "\x02h2"
#define HTTP2_FIELD(name, value) \
    {(uint8_t *)(name), (uint8_t *)(value), strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE}
#define HTTP2_COUNT(fields) (sizeof(fields) / sizeof *(fields))

struct http2_text {
    const char *at;
    size_t left;
};

/* A stream of a server: what was asked for, and the rest of the answer's body. */
struct http2_stream {
    char method[8], path[64];
    struct http2_text body;
};

static inline ssize_t http2_read_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                                      nghttp2_data_source *source, void *context) {
    struct http2_text *body = source->ptr;
    size_t length = body->left < room ? body->left : room;
    (void)session, (void)id, (void)context;
    memcpy(to, body->at, length);
    body->at += length;
    body->left -= length;
    if (body->left == 0) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)length;
}

/* Whether what there is to send has been sent. */
static inline int http2_send(struct peer *peer, nghttp2_session *session) {
    const uint8_t *data;
    ssize_t length;
    while ((length = nghttp2_session_mem_send(session, &data)) > 0)
        if (peer_write(peer, data, (size_t)length) != (size_t)length) return 0;
    return length == 0;
}

/* Moves frames both ways for as long as `*streams` is not 0 and the peer goes on. */
static inline void http2_run(struct peer *peer, nghttp2_session *session, const int *streams) {
    static __thread uint8_t received[READ_SIZE];
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, NULL, 0);
    while (http2_send(peer, session) && *streams != 0) {
        size_t length = peer_read(peer, received, sizeof received);
        if (length == 0 || nghttp2_session_mem_recv(session, received, length) < 0) return;
    }
}

static inline int http2_on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
    (void)context;
    if (frame->hd.type == NGHTTP2_HEADERS)
        nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, calloc(1, sizeof(struct http2_stream)));
    return 0;
}

static inline int http2_on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                                  size_t name_length, const uint8_t *value, size_t length, uint8_t flags, void *context) {
    struct http2_stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    (void)flags, (void)context;
    if (stream && name_length == 7 && memcmp(name, ":method", 7) == 0)
        snprintf(stream->method, sizeof stream->method, "%.*s", (int)length, value);
    if (stream && name_length == 5 && memcmp(name, ":path", 5) == 0)
        snprintf(stream->path, sizeof stream->path, "%.*s", (int)length, value);
    return 0;
}

static inline int http2_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
    struct http2_stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    (void)context;
    if (!stream || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    const char *status = "404", *body = "{\"error\":\"no such order\"}";
    if (strcmp(stream->method, "POST") == 0) {
        status = "201";
        body = "{\"order\":43,\"state\":\"paid\"}";
    } else if (strcmp(stream->path, "/orders/42") == 0) {
        status = "200";
        body = "{\"order\":42,\"item\":\"coffee\",\"state\":\"shipped\"}";
    }
    stream->body = (struct http2_text){body, strlen(body)};
    nghttp2_nv fields[] = {HTTP2_FIELD(":status", status), HTTP2_FIELD("content-type", "application/json")};
    nghttp2_data_provider source = {{.ptr = &stream->body}, http2_read_body};
    return nghttp2_submit_response(session, frame->hd.stream_id, fields, HTTP2_COUNT(fields), &source);
}

static inline int http2_on_server_close(nghttp2_session *session, int32_t id, uint32_t error, void *context) {
    (void)error, (void)context;
    free(nghttp2_session_get_stream_user_data(session, id));
    return 0;
}

/* Answers requests until the client closes. */
static inline void http2_serve(struct peer *peer) {
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    int streams = 1;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, http2_on_begin);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_on_server_close);
    nghttp2_session_server_new(&session, callbacks, NULL);
    http2_run(peer, session, &streams);
    nghttp2_session_del(session);
    nghttp2_session_callbacks_del(callbacks);
}

static inline int http2_on_client_close(nghttp2_session *session, int32_t id, uint32_t error, void *context) {
    (void)session, (void)id, (void)error;
    --*(int *)context;
    return 0;
}

/* Sends three requests at once and reads what is answered. */
static inline void http2_ask(struct peer *peer) {
    static const char *const asked[][2] = {{"GET", "/orders/42"}, {"GET", "/orders/7"}, {"POST", "/orders"}};
    struct http2_text body = {"{\"item\":\"coffee\"}", 17};
    nghttp2_data_provider source = {{.ptr = &body}, http2_read_body};
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    int streams = 0;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_on_client_close);
    nghttp2_session_client_new(&session, callbacks, &streams);
    for (; streams < (int)HTTP2_COUNT(asked); streams++) {
        const char *method = asked[streams][0];
        nghttp2_nv fields[] = {
            HTTP2_FIELD(":method", method),         HTTP2_FIELD(":scheme", "https"),
            HTTP2_FIELD(":path", asked[streams][1]), HTTP2_FIELD(":authority", "shop.example"),
            HTTP2_FIELD("authorization", "Bearer s3cr3t"), HTTP2_FIELD("accept", "application/json"),
        };
        int has_body = strcmp(method, "POST") == 0;
        nghttp2_submit_request(session, NULL, fields, HTTP2_COUNT(fields), has_body ? &source : NULL, NULL);
    }
    http2_run(peer, session, &streams);
    nghttp2_session_del(session);
    nghttp2_session_callbacks_del(callbacks);
}

#endif
