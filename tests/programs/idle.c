/* Does nothing for ever: PID 1 of a container whose work others do. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    signal(SIGCHLD, SIG_IGN); /* what is left to PID 1 is not kept as a zombie */
    puts("idle");
    fflush(stdout);
    for (;;) pause();
}
