/* Has a function that receives, by the name of OpenSSL's, and none that sends. It waits for a line. */
#include <stdio.h>

__attribute__((noipa)) int SSL_read(void *ssl, void *data, int length) {
    return ssl && data ? length : -1;
}

int main(void) {
    puts(SSL_read(NULL, NULL, 1) < 0 ? "ready" : "");
    fflush(stdout);
    return getchar() == EOF;
}
