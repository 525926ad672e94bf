/* Makes containers without an engine, driven by lines on standard input; each command prints one line:
 *   start ID LAYERS PROCESSES CONNECTIONS -> "started PID": the image's /app/prefork in namespaces of its own
 *                                            (pid, mount, network, UTS, IPC), with an overlay of LAYERS (as
 *                                            overlayfs wants them) as its root, in the cgroup docker-ID.scope
 *   stop ID                               -> "stopped"
 *   exchange                              -> "exchanged": every connection of every container moved a line
 * Arguments: a directory and a cgroup of the v2 hierarchy, which it makes. At the end of its input,
 * however its parent ended, it kills the containers and removes both. It ignores Ctrl-C, which a terminal
 * sends to all: the parent ends of it, and that is the end of the input. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTAINERS = 4096, ID_MAX = 64, PATH_SIZE = 4096, PATIENCE_MS = 60000, STEP_MS = 200, READY_FD = 3 };
enum { NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC };

struct container {
    char id[ID_MAX + 1];
    pid_t pid;
};

static struct container containers[CONTAINERS];
static size_t container_count;
static const char *directory, *cgroup;
static int ready_pipe[2];

static int failed(const char *format, ...) {
    int error = errno;
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, ": %s\n", strerror(error));
    return -1;
}

static void cgroup_path(char *path, const char *id) {
    snprintf(path, PATH_SIZE, "%s/docker-%s.scope", cgroup, id);
}

/* What the container's first process does before it executes the image's program. Failures end it; the line on
 * standard error says why. */
static int become_container(const char *id, const char *layers, const char *processes, const char *connections) {
    char path[PATH_SIZE], options[2 * PATH_SIZE];
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return failed("prctl");
    cgroup_path(path, id);
    strncat(path, "/cgroup.procs", PATH_SIZE - strlen(path) - 1);
    int procs = open(path, O_WRONLY | O_CLOEXEC);
    if (procs < 0 || write(procs, "0", 1) != 1) return failed("%s", path);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return failed("private mounts");
    if (chdir(directory) != 0) return failed("%s", directory);
    if (mount("tmpfs", "own", "tmpfs", 0, "size=1m") != 0) return failed("tmpfs");
    if (mkdir("own/upper", 0755) != 0 || mkdir("own/work", 0755) != 0) return failed("layers");
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=own/upper,workdir=own/work", layers);
    if (mount("overlay", "root", "overlay", 0, options) != 0) return failed("overlay of %s", layers);
    if (chdir("root") != 0) return failed("root");
    if (mount("proc", "proc", "proc", 0, NULL) != 0) return failed("proc");
    if (syscall(SYS_pivot_root, ".", ".") != 0) return failed("pivot_root");
    if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) return failed("the old root");
    if (dup2(ready_pipe[1], READY_FD) < 0) return failed("dup2");
    execl("/app/prefork", "prefork", processes, connections, NULL);
    return failed("/app/prefork");
}

/* Waits until this many containers have written a byte. Fails if one has ended, or if our parent has. */
static int wait_for_bytes(size_t count) {
    char bytes[256];
    for (int waited_ms = 0; count > 0;) {
        struct pollfd inputs[] = {{ready_pipe[0], POLLIN, 0}, {STDIN_FILENO, 0, 0}};
        int ready = poll(inputs, 2, STEP_MS);
        errno = ETIMEDOUT;
        if (inputs[1].revents != 0) return failed("nobody waits for %zu containers any more", count);
        if (ready <= 0) {
            waited_ms += STEP_MS;
            siginfo_t ended = {.si_pid = 0};
            waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT);
            if (ended.si_pid != 0) return failed("container %d has ended", ended.si_pid);
            if (waited_ms >= PATIENCE_MS) return failed("%zu containers did not answer", count);
            continue;
        }
        ssize_t got = read(ready_pipe[0], bytes, count < sizeof bytes ? count : sizeof bytes);
        if (got <= 0) return failed("the pipe of the containers");
        count -= (size_t)got;
    }
    return 0;
}

static int start(const char *id, const char *layers, const char *processes, const char *connections) {
    char path[PATH_SIZE];
    if (container_count == CONTAINERS) {
        errno = ENOSPC;
        return failed("more than %d containers", CONTAINERS);
    }
    cgroup_path(path, id);
    if (mkdir(path, 0755) != 0) return failed("%s", path);
    fflush(NULL);
    pid_t pid = (pid_t)syscall(SYS_clone, NAMESPACES | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0) {
        failed("clone");
        rmdir(path);
        return -1;
    }
    if (pid == 0) {
        become_container(id, layers, processes, connections);
        _exit(1);
    }
    struct container *new = &containers[container_count++];
    strcpy(new->id, id);
    new->pid = pid;
    if (wait_for_bytes(1) != 0) return -1;
    printf("started %d\n", pid);
    return 0;
}

/* A cgroup is busy for a moment after its last process has ended. */
static void remove_cgroup(const char *path) {
    for (int turn = 0; turn < 1000 && rmdir(path) != 0 && errno == EBUSY; turn++) usleep(2000);
}

static void reap(const struct container *container) {
    char path[PATH_SIZE];
    waitpid(container->pid, NULL, 0);
    cgroup_path(path, container->id);
    remove_cgroup(path);
}

static int stop(const char *id) {
    for (size_t at = 0; at < container_count; at++) {
        if (strcmp(containers[at].id, id) != 0) continue;
        kill(containers[at].pid, SIGKILL);
        reap(&containers[at]);
        containers[at] = containers[--container_count];
        printf("stopped\n");
        return 0;
    }
    errno = ESRCH;
    return failed("%s", id);
}

static int exchange(void) {
    for (size_t at = 0; at < container_count; at++)
        if (kill(containers[at].pid, SIGUSR1) != 0) return failed("%s", containers[at].id);
    if (wait_for_bytes(container_count) != 0) return -1;
    printf("exchanged\n");
    return 0;
}

/* Removes what an earlier run left that was killed. Fails if there are processes in it: another run's. */
static int claim_cgroup(void) {
    DIR *old = opendir(cgroup);
    if (old) {
        struct dirent *entry;
        while ((entry = readdir(old)) != NULL)
            if (entry->d_type == DT_DIR && entry->d_name[0] != '.') unlinkat(dirfd(old), entry->d_name, AT_REMOVEDIR);
        closedir(old);
        rmdir(cgroup);
    }
    if (mkdir(cgroup, 0755) != 0) return failed("%s (does another measurement run?)", cgroup);
    return 0;
}

static int remove_entry(const char *path, const struct stat *unused, int kind, struct FTW *place) {
    (void)unused, (void)kind, (void)place;
    remove(path);
    return 0;
}

/* Also removes what is there of an earlier run. Only whoever has the cgroup may. */
static int make_directory(void) {
    char path[PATH_SIZE];
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (mkdir(directory, 0755) != 0) return failed("%s", directory);
    for (const char *const *name = (const char *const[]){"root", "own", NULL}; *name; name++) {
        snprintf(path, sizeof path, "%s/%s", directory, *name);
        if (mkdir(path, 0755) != 0) return failed("%s", path);
    }
    return 0;
}

static void clean_up(void) {
    for (size_t at = 0; at < container_count; at++) kill(containers[at].pid, SIGKILL);
    for (size_t at = 0; at < container_count; at++) reap(&containers[at]);
    remove_cgroup(cgroup);
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static int obey(const char *line) {
    char id[ID_MAX + 1], layers[PATH_SIZE], processes[16], connections[16];
    if (sscanf(line, "start %64s %4095s %15s %15s", id, layers, processes, connections) == 4)
        return start(id, layers, processes, connections);
    if (sscanf(line, "stop %64s", id) == 1) return stop(id);
    if (strcmp(line, "exchange\n") == 0) return exchange();
    errno = EINVAL;
    return failed("not understood: %s", line);
}

static void end(int signal) {
    (void)signal;
}

int main(int count, char **arguments) {
    static char line[2 * PATH_SIZE];
    if (count != 3) return 2;
    directory = arguments[1];
    cgroup = arguments[2];
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    /* Without SA_RESTART: reading ends. */
    struct sigaction ends = {.sa_handler = end};
    sigaction(SIGTERM, &ends, NULL);
    if (pipe2(ready_pipe, O_CLOEXEC) != 0) return 1;
    if (claim_cgroup() != 0 || make_directory() != 0) return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    int result = 0;
    while (result == 0 && fgets(line, sizeof line, stdin)) result = obey(line);
    clean_up();
    return result == 0 ? 0 : 1;
}
