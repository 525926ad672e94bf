// Functions to probe. The command line names the scenarios; `idle` waits, so that the file stays mapped.
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// Keeps the compiler from inlining a function, from specialising it for its callers, and from dropping calls
// without effects.
#define FUNCTION __attribute__((noinline, noclone, used))
#define KEEP __asm__ volatile("" ::: "memory")

FUNCTION int add(int a, const char *text, unsigned long length, const char *bytes) {
    KEEP;
    return a + (int)strlen(text) + (int)length + bytes[0];
}

FUNCTION int factorial(int n) {
    if (n < 2)
        return 1;
    int result = factorial(n - 1);
    KEEP;
    return n * result;
}

FUNCTION const char *inner(const char *text) {
    KEEP;
    return text + 1;
}

FUNCTION int outer(const char *text) {
    int length = (int)strlen(inner(text));
    KEEP;
    return length;
}

static jmp_buf place;

FUNCTION int jumper(int n) {
    KEEP;
    if (n == 0)
        longjmp(place, 1);
    int result = jumper(n - 1);
    KEEP;
    return result + 1;
}

FUNCTION int stays(int n) {
    KEEP;
    pause();
    return n;
}

static void *stay(void *argument) {
    stays(7);
    return argument;
}

FUNCTION int ignores(const char *text) {
    KEEP;
    return text != NULL;
}

// Begins with `push`, as many functions do: the kernel emulates that instead of single-stepping it.
FUNCTION void empty(void) { __asm__ volatile("push %%rbx; pop %%rbx" ::: "memory"); }

#define ONE(n) FUNCTION int many_##n(int a) { KEEP; return a; }
#define TEN(n) ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) ONE(n##8) ONE(n##9)
#define HUNDRED(n) TEN(n##0) TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)
HUNDRED(0) HUNDRED(1) HUNDRED(2) HUNDRED(3) HUNDRED(4)
#undef ONE
#define ONE(n) many_##n(1##n);

FUNCTION void call_many(void) {
    HUNDRED(0) HUNDRED(1) HUNDRED(2) HUNDRED(3) HUNDRED(4)
}

// A page that nobody has used yet.
static const char *untouched(void) {
    const char *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? NULL : page + 1;
}

// So large that reading one does not bring another into memory (fault-around: 64 KiB). The long one does not fit
// into one page.
enum { FAR = 1 << 18 };
struct far {
    char before[FAR - 4096 - 16], text[4096 + 16];
};
#define BLANKS "                                                                "
static const struct far constants[3] __attribute__((aligned(4096))) = {
    {"", "a constant that nobody has read"},
    {"", "over the end of a page" BLANKS "!"},
    {"x", "never"},
};
static struct far variables[1] __attribute__((aligned(4096))) = {{"", "a variable before it is read"}};

static void loop(long calls) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < calls; i++)
        empty();
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.1f\n", ns / (double)calls);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "idle";
    if (!strcmp(what, "idle"))
        for (;;)
            pause();
    if (!strcmp(what, "add"))
        add(-5, "say \"hello\"\n", 3, "a\0c and more");
    if (!strcmp(what, "recursion"))
        factorial(5);
    if (!strcmp(what, "nested")) {
        outer("nested");
        // ctrace resolves addresses with the mappings of the process, as long as it lives.
        usleep(300000);
    }
    if (!strcmp(what, "longjmp"))
        for (int i = 0; i < 2; i++)
            if (!setjmp(place))
                jumper(2);
    if (!strcmp(what, "never")) {
        pthread_t thread;
        pthread_create(&thread, NULL, stay, NULL);
        usleep(100000);
    }
    if (!strcmp(what, "untouched"))
        ignores(untouched());
    if (!strcmp(what, "constants")) {
        ignores(constants[0].text);
        add(1, "", 25, constants[1].text);
        ignores(variables[0].text);
        // ctrace reads them from the file that the process maps.
        sleep(2);
    }
    if (!strcmp(what, "nothing"))
        ignores("");
    if (!strcmp(what, "long")) {
        char text[1000];
        memset(text, 'x', sizeof text);
        text[999] = 0;
        ignores(text);
    }
    if (!strcmp(what, "many"))
        call_many();
    if (!strcmp(what, "loop"))
        loop(argc > 2 ? atol(argv[2]) : 1000000);
    return 0;
}
