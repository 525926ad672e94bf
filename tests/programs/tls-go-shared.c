/* The same as tls-pair.go, in a library that Go built (tls-shared.go), which sees the arguments of this
 * program. */
void TlsPair(void);

int main(void) {
    TlsPair();
    return 0;
}
