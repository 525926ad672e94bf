/* A process that is hard to inspect: it maps its own file --maps times with holes between, has the name
 * --name, and with --forks keeps forking children that live for a moment. It maps libssl like any server. */
#include <getopt.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Each is a page with a hole before and after it, so that the kernel cannot merge them into one mapping. */
static void map_with_holes(size_t count) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("/proc/self/exe");
    char *room = mmap(NULL, count * 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED || munmap(room, count * 2 * PAGE) != 0) fail("room");
    for (size_t i = 0; i < count; i++)
        if (mmap(room + i * 2 * PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
            fail("mmap");
    close(fd);
}

static void fork_for_ever(void) {
    for (;;) {
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child == 0) {
            usleep(1000);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
}

int main(int count, char **arguments) {
    const struct option known[] = {
        {"maps", required_argument, NULL, 'm'}, {"name", required_argument, NULL, 'n'}, {"forks", no_argument, NULL, 'f'}, {0}};
    size_t maps = 0;
    int forks = 0, found;
    while ((found = getopt_long(count, arguments, "", known, NULL)) != -1) {
        if (found == 'm')
            maps = strtoul(optarg, NULL, 10);
        else if (found == 'n')
            prctl(PR_SET_NAME, optarg);
        else if (found == 'f')
            forks = 1;
        else
            return 2;
    }
    if (OPENSSL_init_ssl(0, NULL) != 1) fail("OPENSSL_init_ssl");
    if (maps > 0) map_with_holes(maps);
    puts("ready");
    fflush(stdout);
    if (forks) fork_for_ever();
    for (;;) pause();
}
