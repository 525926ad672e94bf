// Go functions to probe: strings, slices, methods, and a stack that grows while they run.
package main

import (
	"os"
	"time"
)

//go:noinline
func greet(name string, n int, b []byte) (string, int) {
	if n > 0 {
		text, m := greet(name, n-1, b)
		return text, m + 1
	}
	return "hi " + name, len(b)
}

//go:noinline
func deep(n int) int {
	var room [512]byte
	room[n%512] = byte(n)
	if n == 0 {
		return int(room[0])
	}
	return deep(n-1) + int(room[n%512])*0 + 1
}

type server struct{ calls int }

//go:noinline
func (s *server) handle(path string) bool {
	s.calls++
	return s.calls%2 == 0
}

func main() {
	if len(os.Args) < 2 || os.Args[1] == "idle" {
		for {
			time.Sleep(time.Hour)
		}
	}
	s := &server{}
	s.handle("/a")
	s.handle("/b")
	greet("wörld", 1, []byte("abc"))
	done := make(chan int)
	go func() { done <- deep(200) }()
	<-done
}
