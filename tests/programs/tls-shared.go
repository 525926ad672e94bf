// Makes tls-pair.go a library for C (-buildmode=c-shared).
package main

import "C"

//export TlsPair
func TlsPair() { main() }
