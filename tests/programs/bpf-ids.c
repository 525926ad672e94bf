/* Prints the ids of all BPF programs, maps and links in the kernel, one per line: "program 12". With ids of
 * maps as arguments, it prints how many entries each of these hash tables has: "NAME 3". */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attributes) {
    return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static void list(const char *name, int command) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    while (bpf(command, &attributes) == 0) {
        printf("%s %u\n", name, attributes.next_id);
        attributes.start_id = attributes.next_id;
    }
}

static void count(unsigned id) {
    static unsigned char keys[2][512];
    union bpf_attr attributes;
    struct bpf_map_info info;
    memset(&attributes, 0, sizeof attributes);
    memset(&info, 0, sizeof info);
    attributes.map_id = id;
    int map = (int)bpf(BPF_MAP_GET_FD_BY_ID, &attributes);
    memset(&attributes, 0, sizeof attributes);
    attributes.info.bpf_fd = (unsigned)map;
    attributes.info.info_len = sizeof info;
    attributes.info.info = (unsigned long)&info;
    if (map < 0 || bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) != 0 || info.key_size > sizeof keys[0]) exit(1);
    if (info.type == BPF_MAP_TYPE_HASH || info.type == BPF_MAP_TYPE_LRU_HASH) {
        unsigned long entries = 0;
        memset(&attributes, 0, sizeof attributes);
        attributes.map_fd = (unsigned)map;
        attributes.next_key = (unsigned long)keys[0];
        for (; bpf(BPF_MAP_GET_NEXT_KEY, &attributes) == 0; entries++) {
            attributes.key = (unsigned long)keys[entries % 2];
            attributes.next_key = (unsigned long)keys[(entries + 1) % 2];
        }
        printf("%s %lu\n", info.name, entries);
    }
    close(map);
}

int main(int arguments, char **argument) {
    for (int index = 1; index < arguments; index++) count((unsigned)atoi(argument[index]));
    if (arguments > 1) return 0;
    list("program", BPF_PROG_GET_NEXT_ID);
    list("map", BPF_MAP_GET_NEXT_ID);
    list("link", BPF_LINK_GET_NEXT_ID);
    return 0;
}
