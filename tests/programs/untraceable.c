/* Contains the texts by which TLS of another language is recognised, and none of its code. */
#include <stdio.h>
#include <unistd.h>

static const char *const volatile errors[] = {"TlsBadRsaSignatureBitCount", "TlsRecordOverflow"};

int main(void) {
    puts(errors[0] && errors[1] ? "ready" : "");
    fflush(stdout);
    for (;;) pause();
}
