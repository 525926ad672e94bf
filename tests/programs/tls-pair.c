/* A client and a server of one TLS library, in two processes that are connected over 127.0.0.1. LIBRARY, the
 * header of the library here, is chosen at compile time.
 * It waits until it reads a line. Then, --connections times, the client sends the --up sizes, each in its
 * own calls, and the server the --down sizes; both report what they moved. With --late 1 it waits after the
 * first connection has been opened instead.
 * Each library is used as in its own examples: its usual functions create and free the handles. */
#include "tally.h"
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum side { CLIENT, SERVER };

/* The interface that each library's header implements. */
struct peer;
static void library_start(void);
static void peer_open(struct peer *peer);
static int peer_handshake(struct peer *peer);
static long peer_send(struct peer *peer, const void *data, size_t length);
static long peer_receive(struct peer *peer, void *data, size_t room);
static void peer_close(struct peer *peer);

#include LIBRARY

static void send_all(struct peer *peer, struct tally *sent, const struct sizes *sizes) {
    uint64_t state = peer->side == CLIENT ? 3 : 5;
    for (size_t i = 0; i < sizes->count; i++) {
        size_t length = sizes->size[i];
        unsigned char *data = (unsigned char *)malloc(length + 1), *at = data;
        fill(data, length, &state);
        while (length > 0) {
            long done = peer_send(peer, at, length);
            if (done <= 0) fail("cannot send: %ld", done);
            tally_add(sent, at, (size_t)done);
            at += done, length -= (size_t)done;
        }
        free(data);
    }
}

static void receive_all(struct peer *peer, struct tally *received, const struct sizes *sizes) {
    static unsigned char data[20000];
    uint64_t length = 0;
    for (size_t i = 0; i < sizes->count; i++) length += sizes->size[i];
    while (length > 0) {
        long done = peer_receive(peer, data, length < sizeof data ? length : sizeof data);
        if (done <= 0) fail("cannot receive: %ld", done);
        tally_add(received, data, (size_t)done);
        length -= (uint64_t)done;
    }
}

static void wait_for_line(void) {
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF) exit(1);
}

static void connection(enum side side, int fd, unsigned number, const struct sizes *up, const struct sizes *down,
                       int wait) {
    struct peer peer = {};
    peer.side = side;
    peer.fd = fd;
    struct tally received, sent;
    tally_start(&received);
    tally_start(&sent);
    peer_open(&peer);
    if (!peer_handshake(&peer)) fail("no handshake");
    if (wait) wait_for_line();
    if (side == CLIENT) {
        send_all(&peer, &sent, up);
        receive_all(&peer, &received, down);
    } else {
        receive_all(&peer, &received, up);
        send_all(&peer, &sent, down);
    }
    peer_close(&peer);
    close(fd);
    report(&received, &sent, side == CLIENT ? "client" : "server", number);
}

/* Two connected TCP sockets, because NSS accepts no others. */
static void connect_pair(int pair[2]) {
    struct sockaddr_in address = {};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0) fail("no listener");
    if (getsockname(listener, (struct sockaddr *)&address, &size) != 0) fail("no address");
    if (connect(pair[0], (struct sockaddr *)&address, size) != 0) fail("no connection");
    pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (pair[1] < 0) fail("no connection");
    close(listener);
}

int main(int count, char **arguments) {
    struct sizes up = {0, NULL}, down = {0, NULL};
    unsigned connections = 1, late = 0;
    const struct option known[] = {
        {"up", 1, NULL, 'u'}, {"down", 1, NULL, 'd'}, {"connections", 1, NULL, 'c'}, {"late", 1, NULL, 'l'}, {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
        switch (option) {
        case 'u': up = sizes_parse(optarg); break;
        case 'd': down = sizes_parse(optarg); break;
        case 'c': connections = (unsigned)atoi(optarg); break;
        case 'l': late = (unsigned)atoi(optarg); break;
        default: return 2;
        }
    }
    /* The side that closes first need not read the last data of the other. */
    signal(SIGPIPE, SIG_IGN);
    library_start();
    if (!late) wait_for_line();
    int pairs[64][2];
    if (connections > 64) return 2;
    for (unsigned i = 0; i < connections; i++) connect_pair(pairs[i]);
    pid_t child = fork();
    if (child < 0) fail("cannot fork");
    enum side side = child == 0 ? SERVER : CLIENT;
    for (unsigned i = 0; i < connections; i++) close(pairs[i][side == SERVER ? 0 : 1]);
    for (unsigned i = 0; i < connections; i++)
        connection(side, pairs[i][side == SERVER ? 1 : 0], i + 1, &up, &down, late && side == CLIENT && i == 0);
    if (side == CLIENT) {
        int status = 0;
        if (waitpid(child, &status, 0) != child || status != 0) fail("the server failed");
    }
    return 0;
}
