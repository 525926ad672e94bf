// Executes programs in ways that a tracer might miss; the first argument says which. It is also the program
// that is executed: without one of these arguments it ends at once.
//
//   storm N         forks N processes, each of which executes this program with its number
//   thread          executes from a thread that is not the first
//   bytes           executes with arguments that a shell would not pass on
//   many N LENGTH   executes with N arguments of LENGTH bytes
//   fail PATH       tries to execute PATH, and continues
//   empty           executes without an environment
//   exit N          ends with the status N
//   signal N        ends by the signal N
//   script PATH     executes PATH with the argument `a b`
//   chain N         executes itself N times in the same process
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;

static void run(char *const arguments[], char *const environment[]) {
    pid_t child = fork();
    if (child == 0) {
        execve(self, arguments, environment);
        _exit(99);
    }
    waitpid(child, NULL, 0);
}

static void *from_thread(void *unused) {
    (void)unused;
    char *arguments[] = {(char *)self, "from a thread", NULL};
    execve(self, arguments, NULL);
    return NULL;
}

int main(int count, char **arguments) {
    self = "/proc/self/exe";
    char path[4096];
    ssize_t length = readlink(self, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        self = path;
    }
    const char *what = count > 1 ? arguments[1] : "";
    long number = count > 2 ? atol(arguments[2]) : 0;
    char text[32];
    if (!strcmp(what, "storm")) {
        for (long index = 0; index < number; index++) {
            snprintf(text, sizeof text, "%ld", index);
            char *one[] = {"storm-child", "one", text, NULL};
            pid_t child = vfork();
            if (child == 0) {
                execve(self, one, NULL);
                _exit(99);
            }
            if (index % 16 == 15 || index == number - 1)
                while (waitpid(-1, NULL, 0) > 0)
                    ;
        }
    } else if (!strcmp(what, "thread")) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            pthread_create(&thread, NULL, from_thread, NULL);
            pause();
        }
        waitpid(child, NULL, 0);
    } else if (!strcmp(what, "bytes")) {
        char *odd[] = {"odd name", "", "a b", "line\nbreak", "\xff\xfe", "$(x) 'y'", "\x1b[31m", NULL};
        char *environment[] = {"SECRET=s3cr3t", "PLAIN=yes", "no equals sign", NULL};
        run(odd, environment);
    } else if (!strcmp(what, "empty")) {
        char *few[] = {"few", "last one", NULL};
        run(few, NULL);
    } else if (!strcmp(what, "many")) {
        long size = count > 3 ? atol(arguments[3]) : 1;
        char **many = calloc(number + 2, sizeof *many);
        many[0] = "many";
        for (long index = 1; index <= number; index++) {
            many[index] = malloc(size + 1);
            memset(many[index], 'a' + index % 26, size);
            many[index][size] = 0;
        }
        run(many, environ);
    } else if (!strcmp(what, "fail")) {
        char *none[] = {"failing", "", "x y", NULL};
        execve(arguments[2], none, environ);
        printf("%d\n", errno);
    } else if (!strcmp(what, "script")) {
        char *script[] = {"ignored", "a b", NULL};
        execve(arguments[2], script, environ);
        return 98;
    } else if (!strcmp(what, "chain") && number > 0) {
        snprintf(text, sizeof text, "%ld", number - 1);
        char *next[] = {"chain", "chain", text, NULL};
        execve(self, next, environ);
    } else if (!strcmp(what, "exit")) {
        return (int)number;
    } else if (!strcmp(what, "signal")) {
        raise((int)number);
    }
    return 0;
}
