// Threads wait in system calls, without any signal handler in the program, while another one loads a library.
// Prints the calls that failed because a signal, or a stop, had interrupted them. 0: none.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int failed;

static void report(const char *what, long result) {
    if (result < 0 && errno == EINTR) {
        printf("%s: EINTR\n", what);
        failed = 1;
    }
}

static void *epoll(void *unused) {
    struct epoll_event event;
    report("epoll_wait", epoll_wait(epoll_create1(0), &event, 1, 1500));
    return unused;
}

static void *receive(void *unused) {
    int pair[2];
    struct timeval limit = {1, 500000};
    char byte;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    report("recv with SO_RCVTIMEO", recv(pair[0], &byte, 1, 0));
    return unused;
}

static void *inotify(void *unused) {
    int watch = inotify_init1(0);
    char events[999];
    inotify_add_watch(watch, "/dev/null", IN_ATTRIB);
    report("read of inotify", read(watch, events, sizeof events));
    return unused;
}

static void *semaphore(void *unused) {
    sem_t never;
    struct timespec limit;
    sem_init(&never, 0, 0);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 2;
    report("sem_timedwait", sem_timedwait(&never, &limit));
    return unused;
}

int main(int count, char **words) {
    void *(*all[])(void *) = {epoll, receive, inotify, semaphore};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, all[i], 0);
    usleep(300000);
    if (!dlopen(count > 1 ? words[1] : "libssl.so.3", RTLD_NOW)) puts(dlerror());
    usleep(2000000);
    puts(failed ? "system calls failed" : "no system call failed");
    return failed;
}
