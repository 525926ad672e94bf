// USDT probes in the program; the second is reached only while a tracer is attached.
#define _SDT_HAS_SEMAPHORES 1
#include <string.h>
#include <sys/sdt.h>
#include <unistd.h>

unsigned short shop_sold_semaphore __attribute__((section(".probes")));
unsigned short scale_weighed_semaphore __attribute__((section(".probes")));
unsigned short shop_asked_semaphore __attribute__((section(".probes")));

__attribute__((noinline)) static int sell(int number, const char *what, long price) {
    int reached = 0;
    double weight = number * 1.25;
    float part = (float)number / 3;
    DTRACE_PROBE2(scale, weighed, weight, part);
    DTRACE_PROBE3(shop, sold, number, what, price);
    if (shop_asked_semaphore) {
        DTRACE_PROBE2(shop, asked, number * 2, what);
        reached = 1;
    }
    return reached + (int)strlen(what);
}

int main(int argc, char **argv) {
    if (argc < 2 || !strcmp(argv[1], "idle"))
        for (;;)
            pause();
    char what[] = "tea";
    int reached = 0;
    for (int i = 1; i < 4; i++)
        reached += sell(i, what, -7L * i);
    return reached == 12 ? 0 : 3;
}
