/* A TLS server of one thread that serves each connection on a stack of its own, as languages with fibers do:
 * it switches stacks when a read would block, which is inside of SSL_read. Its clients are a process that it
 * forks. It waits until it reads a line. Then each of CONNECTIONS clients asks ROUNDS questions, in changing
 * order, and the server answers each in a call of `answer`. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { MOST = 64, STACK = 262144, TEXT = 100 };

static ucontext_t scheduler, fibers[MOST];
static int sockets[MOST][2], waits[MOST], current, living;
static SSL_CTX *context;
static BIO_METHOD *method;

static void fail(const char *what) {
    fprintf(stderr, "fibers: %s\n", what);
    _exit(1);
}

static unsigned int key_into(unsigned char *key) {
    memcpy(key, "0123456789abcdef", 16);
    return 16;
}

static unsigned int client_key(SSL *ssl, const char *hint, char *identity, unsigned int room,
                               unsigned char *key, unsigned int most) {
    (void)ssl, (void)hint, (void)most;
    strncpy(identity, "test", room);
    return key_into(key);
}

static unsigned int server_key(SSL *ssl, const char *identity, unsigned char *key, unsigned int most) {
    (void)ssl, (void)identity, (void)most;
    return key_into(key);
}

static int on_read(BIO *bio, char *data, int room) {
    int fiber = (int)(long)BIO_get_data(bio), done;
    while ((done = (int)read(sockets[fiber][0], data, (size_t)room)) < 0 && errno == EAGAIN) {
        waits[fiber] = 1;
        swapcontext(&fibers[fiber], &scheduler);
    }
    return done;
}

static int on_write(BIO *bio, const char *data, int length) {
    return (int)write(sockets[(long)BIO_get_data(bio)][0], data, (size_t)length);
}

static long on_control(BIO *bio, int what, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return what == BIO_CTRL_FLUSH;
}

static int on_new(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

/* Returns the length of the question, or 0 at the end. */
__attribute__((noinline)) int answer(SSL *ssl) {
    char question[TEXT], text[2 * TEXT];
    int length = SSL_read(ssl, question, sizeof question - 1);
    if (length <= 0) return 0;
    question[length] = 0;
    int all = snprintf(text, sizeof text, "answer to %s", question);
    if (SSL_write(ssl, text, all) != all) fail("cannot answer");
    return length;
}

static void serve(int fiber) {
    SSL *ssl = SSL_new(context);
    BIO *bio = BIO_new(method);
    BIO_set_data(bio, (void *)(long)fiber);
    SSL_set_bio(ssl, bio, bio);
    if (SSL_accept(ssl) != 1) fail("cannot accept");
    while (answer(ssl) > 0) continue;
    SSL_free(ssl);
    living--;
    swapcontext(&fibers[fiber], &scheduler);
}

static void run(int count) {
    int protection = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    char *stacks = mmap(NULL, (size_t)count * STACK, protection, kind, -1, 0);
    if (stacks == MAP_FAILED) fail("no memory");
    for (int i = 0; i < count; i++) {
        fcntl(sockets[i][0], F_SETFL, O_NONBLOCK);
        getcontext(&fibers[i]);
        /* Neighbours in time are not neighbours in memory. */
        fibers[i].uc_stack.ss_sp = stacks + (size_t)(i * 5 % count) * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        makecontext(&fibers[i], (void (*)(void))serve, 1, i);
        waits[i] = 0, living++, current = i;
        swapcontext(&scheduler, &fibers[i]);
    }
    while (living > 0) {
        struct pollfd polled[MOST];
        for (int i = 0; i < count; i++) {
            polled[i] = (struct pollfd){.fd = waits[i] ? sockets[i][0] : -1, .events = POLLIN};
        }
        poll(polled, (nfds_t)count, -1);
        for (int i = 0; i < count; i++) {
            if (polled[i].fd < 0 || polled[i].revents == 0) continue;
            waits[i] = 0, current = i;
            swapcontext(&scheduler, &fibers[i]);
        }
    }
}

static void ask(int count, int rounds) {
    SSL *peers[MOST];
    SSL_CTX *clients = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(clients, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(clients, "PSK");
    SSL_CTX_set_psk_client_callback(clients, client_key);
    for (int i = 0; i < count; i++) {
        peers[i] = SSL_new(clients);
        SSL_set_fd(peers[i], sockets[i][1]);
        if (SSL_connect(peers[i]) != 1) fail("cannot connect");
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < count; i++) {
            int peer = (i * 7 + round) % count;
            char question[TEXT], expected[2 * TEXT], text[2 * TEXT];
            int length = snprintf(question, sizeof question, "question %d of connection %d\n", round, peer);
            int all = snprintf(expected, sizeof expected, "answer to %s", question);
            if (SSL_write(peers[peer], question, length) != length) fail("cannot ask");
            if (SSL_read(peers[peer], text, sizeof text) != all || memcmp(text, expected, (size_t)all) != 0) {
                fail("a wrong answer");
            }
        }
    }
    for (int i = 0; i < count; i++) {
        SSL_shutdown(peers[i]);
        close(sockets[i][1]);
    }
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3) fail("CONNECTIONS ROUNDS");
    int count = atoi(argv[1]), rounds = atoi(argv[2]), status = 0;
    if (count < 1 || count > MOST) fail("too many connections");
    method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | 77, "fiber");
    BIO_meth_set_read(method, on_read);
    BIO_meth_set_write(method, on_write);
    BIO_meth_set_ctrl(method, on_control);
    BIO_meth_set_create(method, on_new);
    context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(context, "PSK");
    SSL_CTX_set_psk_server_callback(context, server_key);
    for (int i = 0; i < count; i++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[i]) != 0) fail("no socket pair");
    }
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF) return 1;
    pid_t child = fork();
    if (child == 0) ask(count, rounds);
    for (int i = 0; i < count; i++) close(sockets[i][1]);
    run(count);
    if (waitpid(child, &status, 0) != child || status != 0) fail("the clients failed");
    return 0;
}
