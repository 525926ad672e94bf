// Makes tls-pair.go a program with C in it (cgo), which the system's linker links.
package main

// #include <unistd.h>
import "C"

func init() { _ = C.getpid() }
