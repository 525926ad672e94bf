// A client and a server of Go's crypto/tls, connected over 127.0.0.1. It waits until it reads a line. Then,
// -connections times, the client sends the -up sizes, each in its own calls, and the server the -down sizes.
// Both report what they moved, and what their handshake has agreed on. Their stacks are made to grow, so that
// Go moves them.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

type tally struct {
	bytes uint64
	hash  hash.Hash
}

func (t *tally) add(data []byte) {
	t.bytes += uint64(len(data))
	t.hash.Write(data)
}

func (t *tally) String() string {
	return fmt.Sprintf(`{"bytes":%d,"sha256":"%x"}`, t.bytes, t.hash.Sum(nil))
}

func newTally() *tally { return &tally{hash: sha256.New()} }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sizes parses "1,16384,70000".
func sizes(text string) []int {
	var list []int
	for _, word := range strings.Split(text, ",") {
		if size, err := strconv.Atoi(word); err == nil {
			list = append(list, size)
		}
	}
	return list
}

func sum(list []int) int {
	all := 0
	for _, size := range list {
		all += size
	}
	return all
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// deep makes the stack grow, so that Go moves it, and then writes.
func deep(depth int, write func()) {
	var room [512]byte
	if depth > 0 {
		room[depth%512] = 1
		deep(depth-1, write)
	} else {
		write()
	}
	runtime.KeepAlive(&room)
}

func send(conn net.Conn, list []int, seed uint64) *tally {
	sent := newTally()
	for step, size := range list {
		data := make([]byte, size)
		for i := range data {
			seed = seed*6364136223846793005 + 1
			data[i] = byte(seed >> 56)
		}
		write := func() {
			_, err := conn.Write(data)
			check(err)
		}
		if step%2 == 0 {
			write()
		} else {
			deep(40*step, write)
		}
		sent.add(data)
	}
	return sent
}

func receive(conn net.Conn, total int) *tally {
	received := newTally()
	buffer := make([]byte, 9000)
	for received.bytes < uint64(total) {
		count, err := conn.Read(buffer)
		received.add(buffer[:count])
		if err != nil && err != io.EOF {
			check(err)
		}
	}
	return received
}

var output sync.Mutex

func report(side string, number int, received, sent *tally) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf("{\"side\":%q,\"vpid\":%d,\"connection\":%d,\"received\":%v,\"sent\":%v}\n",
		side, os.Getpid(), number, received, sent)
}

// agreed describes what the handshake has agreed on.
func agreed(side string, state tls.ConnectionState) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf("tls {\"side\":%q,\"version\":\"1.%d\",\"cipher\":%q,\"alpn\":%q}\n",
		side, state.Version-tls.VersionTLS10, tls.CipherSuiteName(state.CipherSuite), state.NegotiatedProtocol)
}

func main() {
	up := flag.String("up", "", "sizes that the client sends")
	down := flag.String("down", "", "sizes that the server sends")
	connections := flag.Int("connections", 1, "how many, at the same time")
	version := flag.Int("version", 3, "of TLS 1")
	unread := flag.Int("unread", 0, "the server reads nothing, and the program ends after so many milliseconds")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"second"}}
	client := &tls.Config{
		InsecureSkipVerify: true, ServerName: "hello.test", NextProtos: []string{"first", "second"}}
	if *version == 2 {
		client.MaxVersion = tls.VersionTLS12
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	if *unread > 0 {
		time.AfterFunc(time.Duration(*unread)*time.Millisecond, func() { os.Exit(0) })
	}
	var all sync.WaitGroup
	for number := 1; number <= *connections; number++ {
		all.Add(2)
		go func(number int) {
			defer all.Done()
			socket, err := listener.Accept()
			check(err)
			conn := tls.Server(socket, server)
			if *unread > 0 {
				check(conn.Handshake())
				// Its finalizer would close the socket.
				defer runtime.KeepAlive(conn)
				time.Sleep(time.Hour)
				return
			}
			received := receive(conn, sum(sizes(*up)))
			sent := send(conn, sizes(*down), 5)
			agreed("server", conn.ConnectionState())
			conn.Close()
			report("server", number, received, sent)
		}(number)
		go func(number int) {
			defer all.Done()
			conn, err := tls.Dial("tcp", listener.Addr().String(), client)
			check(err)
			sent := send(conn, sizes(*up), 3)
			received := receive(conn, sum(sizes(*down)))
			agreed("client", conn.ConnectionState())
			conn.Close()
			report("client", number, received, sent)
		}(number)
	}
	all.Wait()
}
