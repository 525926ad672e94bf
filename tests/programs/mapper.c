/* Maps each given file like a library, although it is none, and waits. With --fork MILLISECONDS first, it forks
 * at once; the child ends after that time, and the parent after two seconds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments) {
    int forks = count > 2 && strcmp(arguments[1], "--fork") == 0;
    for (int i = 1 + 2 * forks; i < count; i++) {
        int fd = open(arguments[i], O_RDONLY);
        if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED) {
            perror(arguments[i]);
            return 1;
        }
        close(fd);
    }
    if (forks) {
        usleep(1000 * (fork() == 0 ? atoi(arguments[2]) : 2000));
        return 0;
    }
    puts("mapped");
    fflush(stdout);
    for (;;) pause();
}
