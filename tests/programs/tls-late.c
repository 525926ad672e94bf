/* A program that is not linked with a TLS library, and loads one later. It waits --before MS, loads
 * exchange.so, or --library NAME, from its own directory, waits --after MS (like a program that first
 * resolves a host), lets it speak TLS, and stays --stay MS.
 * With --detach FILE it becomes a daemon --hold MS after it has loaded the library: the process that loaded
 * it has ended then, and FILE gets the report. With --again it finally executes itself once more, at the
 * same addresses. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <time.h>
#include <unistd.h>

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0) {
    }
}

/* Forks twice, as daemons do. */
static void detach(const char *file) {
    if (fork() != 0) _exit(0);
    setsid();
    if (fork() != 0) _exit(0);
    int report = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644), null = open("/dev/null", O_RDWR);
    if (report < 0 || null < 0) _exit(1);
    dup2(null, 0);
    dup2(report, 1);
    dup2(null, 2);
}

/* Turns off the randomisation of addresses for this program and those that it executes from now on. */
static int fix_addresses(char **arguments) {
    int now = personality(0xffffffff);
    if (now & ADDR_NO_RANDOMIZE) return 0;
    if (personality(now | ADDR_NO_RANDOMIZE) < 0) return -1;
    return execv("/proc/self/exe", arguments);
}

int main(int count, char **arguments) {
    long before = 0, hold = 0, after = 0, stay = 0;
    const char *file = NULL, *name = "exchange.so";
    int again = 0;
    const struct option known[] = {
        {"before", 1, NULL, 'b'}, {"after", 1, NULL, 'a'}, {"stay", 1, NULL, 's'},
        {"hold", 1, NULL, 'h'}, {"detach", 1, NULL, 'd'}, {"again", 0, NULL, 'x'},
        {"library", 1, NULL, 'l'}, {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
        switch (option) {
        case 'b': before = atol(optarg); break;
        case 'a': after = atol(optarg); break;
        case 's': stay = atol(optarg); break;
        case 'h': hold = atol(optarg); break;
        case 'd': file = optarg; break;
        case 'x': again = 1; break;
        case 'l': name = optarg; break;
        default: return 2;
        }
    }
    if (again && fix_addresses(arguments) != 0) {
        perror("the same addresses");
        return 1;
    }
    sleep_ms(before);
    char self[4096] = "", path[4200];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return 1;
    snprintf(path, sizeof path, "%s/%s", dirname(self), name);
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    if (file != NULL) {
        sleep_ms(hold);
        detach(file);
    }
    void (*exchange)(void) = (void (*)(void))dlsym(library, "exchange");
    sleep_ms(after);
    exchange();
    fflush(stdout);
    if (again) {
        char wait[32];
        snprintf(wait, sizeof wait, "%ld", after);
        execl("/proc/self/exe", arguments[0], "--after", wait, NULL);
        return 1;
    }
    sleep_ms(stay);
    return 0;
}
