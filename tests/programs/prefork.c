/* A server as many images have it, at rest: a first process with connections, and workers that it has forked,
 * which share its libraries. Its connections are with itself, in memory. Arguments: the number of processes, and
 * of connections. It writes a byte to descriptor 3 when it is ready, and one for each SIGUSR1, upon which every
 * connection moves a line. */
#include "tls.h"

#include <sys/prctl.h>

enum { READY_FD = 3, BUFFER = 17 * 1024 };

static const char LINE[] = "{\"order\":42,\"item\":\"coffee\",\"state\":\"shipped\",\"note\":\"thank you\"}\n";

struct pair {
    SSL *client, *server;
};

static struct pair connect_pair(SSL_CTX *clients, SSL_CTX *servers) {
    BIO *near, *far;
    if (BIO_new_bio_pair(&near, BUFFER, &far, BUFFER) != 1) fail("no BIO pair");
    struct pair pair = {SSL_new(clients), SSL_new(servers)};
    SSL_set_bio(pair.client, near, near);
    SSL_set_bio(pair.server, far, far);
    SSL_set_connect_state(pair.client);
    SSL_set_accept_state(pair.server);
    for (int turn = 0; turn < 10; turn++) {
        int done = SSL_do_handshake(pair.client);
        if (SSL_do_handshake(pair.server) == 1 && done == 1) return pair;
    }
    fail("no handshake");
    return pair;
}

static void fork_workers(long count) {
    for (long worker = 0; worker < count; worker++) {
        pid_t pid = fork();
        if (pid < 0) fail("cannot fork");
        if (pid == 0) {
            close(READY_FD);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) pause();
        }
    }
}

static void say(void) {
    if (write(READY_FD, "", 1) != 1) fail("nobody listens");
}

int main(int count, char **arguments) {
    char room[sizeof LINE];
    sigset_t wanted;
    int signal;
    if (count != 3) return 2;
    long processes = strtol(arguments[1], NULL, 10), connections = strtol(arguments[2], NULL, 10);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    if (OPENSSL_init_ssl(0, NULL) != 1) fail("OPENSSL_init_ssl");
    fork_workers(processes - 1);

    SSL_CTX *clients = SSL_CTX_new(TLS_client_method()), *servers = SSL_CTX_new(TLS_server_method());
    certificate_into(servers);
    SSL_CTX_set_num_tickets(servers, 0);
    SSL_CTX_set_mode(clients, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_mode(servers, SSL_MODE_RELEASE_BUFFERS);
    struct pair *pairs = calloc((size_t)connections + 1, sizeof *pairs);
    if (pairs == NULL) fail("no memory");
    for (long at = 0; at < connections; at++) pairs[at] = connect_pair(clients, servers);
    say();
    while (sigwait(&wanted, &signal) == 0) {
        for (long at = 0; at < connections; at++) {
            if (SSL_write(pairs[at].client, LINE, sizeof LINE - 1) != sizeof LINE - 1) fail("SSL_write");
            if (SSL_read(pairs[at].server, room, sizeof room) != sizeof LINE - 1) fail("SSL_read");
        }
        say();
    }
    return 1;
}
