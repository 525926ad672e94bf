/* What tls-pair.go does, in a library that Go made (tls-shared.go), which sees the arguments of this program. */
void TlsPair(void);

int main(void) {
    TlsPair();
    return 0;
}
