/* Shared by the target programs of the tests, whichever TLS library they use: bytes to move, and the report
 * of what was moved, counted and hashed in both directions (by libcrypto, which moves nothing). */
#ifndef TALLY_H
#define TALLY_H

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tally {
    uint64_t bytes;
    EVP_MD_CTX *hash;
};

struct sizes {
    size_t count;
    size_t *size;
};

static inline void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* "0,1,8191*3,65536*1024": sizes, each with an optional number of repeats; "-" is none. */
static inline struct sizes sizes_parse(const char *text) {
    struct sizes sizes = {0, NULL};
    if (strcmp(text, "-") == 0) return sizes;
    while (*text) {
        char *end;
        size_t size = strtoull(text, &end, 10), repeat = 1;
        if (end == text) fail("not a list of sizes: %s", text);
        if (*end == '*') repeat = strtoull(end + 1, &end, 10);
        sizes.size = (size_t *)realloc(sizes.size, (sizes.count + repeat) * sizeof *sizes.size);
        while (repeat-- > 0) sizes.size[sizes.count++] = size;
        text = *end == ',' ? end + 1 : end;
    }
    return sizes;
}

/* Pseudo-random bytes: nothing in them repeats, so that a byte at a wrong offset changes the hash. */
static inline void fill(unsigned char *at, size_t length, uint64_t *state) {
    uint64_t x = *state | 1;
    while (length > 0) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        size_t part = length < sizeof x ? length : sizeof x;
        memcpy(at, &x, part);
        at += part, length -= part;
    }
    *state = x;
}

static inline void tally_start(struct tally *tally) {
    tally->bytes = 0;
    tally->hash = EVP_MD_CTX_new();
    EVP_DigestInit_ex(tally->hash, EVP_sha256(), NULL);
}

static inline void tally_add(struct tally *tally, const void *data, size_t length) {
    tally->bytes += length;
    EVP_DigestUpdate(tally->hash, data, length);
}

static inline void tally_print(struct tally *tally, const char *name) {
    unsigned char digest[32];
    EVP_DigestFinal_ex(tally->hash, digest, NULL);
    EVP_MD_CTX_free(tally->hash);
    printf("\"%s\":{\"bytes\":%llu,\"sha256\":\"", name, (unsigned long long)tally->bytes);
    for (int i = 0; i < 32; i++) printf("%02x", digest[i]);
    printf("\"}");
}

static inline void report(struct tally *received, struct tally *sent, const char *side, unsigned connection) {
    printf("{\"side\":\"%s\",\"vpid\":%d,\"connection\":%u,", side, getpid(), connection);
    tally_print(received, "received");
    putchar(',');
    tally_print(sent, "sent");
    printf("}\n");
    fflush(stdout);
}

#endif
