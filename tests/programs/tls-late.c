/* A program that is not linked with a TLS library and loads one later: waits --before MS, loads exchange.so from its own
 * directory, waits --after MS (as programs do that look up a host first), has it speak TLS, and stays --stay MS. */
#include <dlfcn.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0) {
    }
}

int main(int count, char **arguments) {
    long before = 0, after = 0, stay = 0;
    const struct option known[] = {
        {"before", 1, NULL, 'b'}, {"after", 1, NULL, 'a'}, {"stay", 1, NULL, 's'}, {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
        switch (option) {
        case 'b': before = atol(optarg); break;
        case 'a': after = atol(optarg); break;
        case 's': stay = atol(optarg); break;
        default: return 2;
        }
    }
    sleep_ms(before);
    char self[4096] = "", path[4200];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return 1;
    snprintf(path, sizeof path, "%s/exchange.so", dirname(self));
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    void (*exchange)(void) = (void (*)(void))dlsym(library, "exchange");
    sleep_ms(after);
    exchange();
    sleep_ms(stay);
    return 0;
}
