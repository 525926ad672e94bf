/* A program that copies its own code to anonymous memory, as Node.js does with --use-largepages: the copy is
 * then executed in place of the file's code. TLS is linked into it.
 * With --use-largepages=on (an option of Node.js, so that this program looks like one that is asked for a
 * copy) or --copy it does so when it starts. Then it speaks TLS with itself, unless --wait is given: it reads words
 * from standard input, one a line: `copy`, `exchange`, `end`. */
#include "exchange.c"
#include <link.h>
#include <sys/mman.h>

static uintptr_t code, code_end;

/* The code of the program, which is the first object. */
static int find_code(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && segment->p_memsz > code_end - code) {
            code = start & ~4095ul;
            code_end = (start + segment->p_memsz + 4095) & ~4095ul;
        }
    }
    return 1;
}

static void copy_code(void) {
    dl_iterate_phdr(find_code, NULL);
    size_t length = code_end - code;
    void *copy = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) fail("no memory");
    memcpy(copy, (void *)code, length);
    if (mprotect(copy, length, PROT_READ | PROT_EXEC) != 0) fail("not executable");
    void *moved = mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)code);
    if (moved != (void *)code) fail("not moved");
}

static void obey(void) {
    char word[64];
    puts("ready");
    fflush(stdout);
    while (fgets(word, sizeof word, stdin) != NULL) {
        if (strcmp(word, "copy\n") == 0) copy_code();
        if (strcmp(word, "exchange\n") == 0) exchange();
        if (strcmp(word, "end\n") == 0) return;
        printf("done %s", word);
        fflush(stdout);
    }
}

int main(int count, char **arguments) {
    int waits = 0;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--use-largepages=on") == 0) copy_code();
        if (strcmp(arguments[i], "--copy") == 0) copy_code();
        if (strcmp(arguments[i], "--wait") == 0) waits = 1;
    }
    if (waits) obey();
    else exchange();
    fflush(stdout);
    return 0;
}
