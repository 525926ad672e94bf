/* Maps each given file like a library, although it is none, and waits. With --fork first, it forks at once, and
 * both processes end after two seconds. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments) {
    int forks = count > 1 && strcmp(arguments[1], "--fork") == 0;
    for (int i = 1 + forks; i < count; i++) {
        int fd = open(arguments[i], O_RDONLY);
        if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED) {
            perror(arguments[i]);
            return 1;
        }
        close(fd);
    }
    if (forks) {
        fork();
        sleep(2);
        return 0;
    }
    puts("mapped");
    fflush(stdout);
    for (;;) pause();
}
