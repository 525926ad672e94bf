/* Prints the ids of all BPF programs, maps and links that the kernel has: "program 12", one a line. */
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void list(const char *name, int command) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    while (syscall(SYS_bpf, command, &attributes, sizeof attributes) == 0) {
        printf("%s %u\n", name, attributes.next_id);
        attributes.start_id = attributes.next_id;
    }
}

int main(void) {
    list("program", BPF_PROG_GET_NEXT_ID);
    list("map", BPF_MAP_GET_NEXT_ID);
    list("link", BPF_LINK_GET_NEXT_ID);
    return 0;
}
