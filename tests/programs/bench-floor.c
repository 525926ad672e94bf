// bench-floor FILE OFFSET…: probes with an empty BPF program at these places of a file, for all processes.
// It writes "ready" when all are attached, and detaches when its standard input ends. An offset after "return:"
// is the one of a function whose return the kernel probes.
//
// It shows what the kernel's way into a probe and back costs, whatever a tracer then does.

#define _GNU_SOURCE
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

// A program that returns 0.
static int empty_program(void) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_KPROBE;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.insn_cnt = sizeof code / sizeof *code;
    attr.license = (uint64_t)(uintptr_t) "GPL";
    int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
    if (program < 0)
        fail("BPF_PROG_LOAD");
    return program;
}

static unsigned uprobe_type(void) {
    FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
    unsigned type;
    if (file == NULL || fscanf(file, "%u", &type) != 1)
        fail("/sys/bus/event_source/devices/uprobe/type");
    fclose(file);
    return type;
}

int main(int argc, char **argv) {
    int program = empty_program();
    unsigned type = uprobe_type();
    for (int place = 2; place < argc; place++) {
        const char *offset = argv[place];
        struct perf_event_attr attr;
        memset(&attr, 0, sizeof attr);
        attr.size = sizeof attr;
        attr.type = type;
        attr.config1 = (uint64_t)(uintptr_t)argv[1];
        if (strncmp(offset, "return:", 7) == 0) {
            attr.config = 1;
            offset += 7;
        }
        attr.config2 = strtoull(offset, NULL, 10);
        int event = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
        if (event < 0)
            fail("perf_event_open");
        if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) < 0)
            fail("PERF_EVENT_IOC_SET_BPF");
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 0;
}
