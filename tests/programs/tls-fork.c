/* A client and a server of OpenSSL, one of which forks after the handshake, so that two processes use one
 * connection.
 * split: the client's child sends all lines but the first, and the client receives the answers.
 * handover: the server sends a line and frees its connection; its child goes on with it. */
#include "tls.h"

#include <sys/wait.h>

enum { LINES = 5, ROOM = 256 };

static void say(SSL *ssl, const char *what, int number) {
    char line[ROOM];
    int length = snprintf(line, sizeof line, "%s %d\n", what, number);
    if (SSL_write(ssl, line, length) != length) fail("SSL_write");
}

static int hear(SSL *ssl) {
    char line[ROOM];
    return SSL_read(ssl, line, sizeof line);
}

/* Answers each line with one of its own. */
static void serve(SSL *ssl) {
    for (int number = 0; hear(ssl) > 0; number++) say(ssl, "answer", number);
}

static void server(int fd, int handover) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    certificate_into(context);
    SSL_CTX_set_num_tickets(context, 0);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) != 1) fail("SSL_accept");
    if (handover) {
        int freed[2];
        char byte;
        if (pipe(freed) != 0) fail("pipe");
        say(ssl, "welcome", 0);
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child != 0) {
            SSL_free(ssl);
            close(fd);
            if (write(freed[1], "", 1) != 1) fail("write");
            waitpid(child, NULL, 0);
            exit(0);
        }
        if (read(freed[0], &byte, 1) != 1) fail("read");
    }
    serve(ssl);
    SSL_free(ssl);
    exit(0);
}

static void client(int fd, int split) {
    SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) fail("SSL_connect");
    if (!split && hear(ssl) <= 0) fail("no welcome");
    say(ssl, "parent", 0);
    if (hear(ssl) <= 0) fail("no answer");
    pid_t child = split ? fork() : 0;
    if (child < 0) fail("fork");
    for (int number = 1; number < LINES; number++) {
        if (child == 0) say(ssl, split ? "child" : "parent", number);
        if (!split || child != 0)
            if (hear(ssl) <= 0) fail("no answer");
    }
    if (split && child == 0) {
        SSL_free(ssl);
        exit(0);
    }
    if (split) waitpid(child, NULL, 0);
    SSL_free(ssl);
    close(fd);
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (count != 2) return 2;
    int split = strcmp(arguments[1], "split") == 0;
    int listener = socket(AF_INET, SOCK_STREAM, 0), near = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0) fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size) != 0) fail("getsockname");
    if (connect(near, (struct sockaddr *)&address, size) != 0) fail("connect");
    int far = accept(listener, NULL, NULL);
    pid_t peer = fork();
    if (peer < 0) fail("fork");
    if (peer == 0) {
        close(near);
        server(far, !split);
    }
    close(far);
    client(near, split);
    waitpid(peer, NULL, 0);
    return 0;
}
