/* Does nothing for ever: process 1 of a container in which other processes do the work. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    signal(SIGCHLD, SIG_IGN); /* orphans of the container do not stay as zombies */
    puts("idle");
    fflush(stdout);
    for (;;) pause();
}
