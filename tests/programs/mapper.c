/* Maps each given file like a library, although it is none, and waits. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        int fd = open(arguments[i], O_RDONLY);
        if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED) {
            perror(arguments[i]);
            return 1;
        }
        close(fd);
    }
    puts("mapped");
    fflush(stdout);
    for (;;) pause();
}
