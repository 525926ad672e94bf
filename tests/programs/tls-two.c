/* A program with OpenSSL and AWS-LC in one file: tls-pair.c with one of them, then with the other. */
#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

/* Of OpenSSL, so that its version is in the file, as in programs that tell it. */
const char *OpenSSL_version(int what);
int openssl_main(int count, char **arguments);
int aws_lc_main(int count, char **arguments);

int main(int count, char **arguments) {
    pid_t self = getpid();
    if (OpenSSL_version(0) == NULL) return 1;
    int status = openssl_main(count, arguments);
    /* The process with the server has returned, too. */
    if (status != 0 || getpid() != self) exit(status);
    optind = 1;
    return aws_lc_main(count, arguments);
}
