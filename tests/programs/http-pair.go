// A server and a client of HTTP with Go's net/http, each of which logs what it has sent and received; what they
// do is as in http-peers.py. Arguments: `server` or `client`, and the protocol (`h1` or `h2`).
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	address   = "localhost:8443"
	authority = "/etc/ssl/certs/ca-certificates.crt"
	workers   = 8
	piece     = 3000
)

type exchange struct {
	Method   string `json:"method"`
	Target   string `json:"target"`
	Status   int    `json:"status"`
	Request  int64  `json:"request"`
	Response int64  `json:"response"`
}

type step struct {
	Method  string `json:"method"`
	Target  string `json:"target"`
	Body    *int   `json:"body"`
	Chunked bool   `json:"chunked"`
}

// What the URLs begin with: without TLS if the environment has CLEARTEXT.
var scheme = "https"

func init() {
	if _, found := os.LookupEnv("CLEARTEXT"); found {
		scheme = "http"
	}
}

var output sync.Mutex

func say(line string) {
	output.Lock()
	defer output.Unlock()
	fmt.Println(line)
}

func log(done exchange) {
	line, err := json.Marshal(done)
	check(err)
	say(string(line))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Which exchange a body belongs to, it says itself.
func bodyOf(target string, size int) []byte {
	return []byte((target + strings.Repeat(".", size))[:size])
}

func wait() {
	for {
		if _, err := os.Stat("/plan/go"); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func serve(writer http.ResponseWriter, request *http.Request) {
	received, err := io.Copy(io.Discard, request.Body)
	check(err)
	target := request.RequestURI
	parts := strings.Split(target, "/")
	status, err := strconv.Atoi(parts[1])
	check(err)
	size, err := strconv.Atoi(parts[2])
	check(err)
	empty := status == 204 || status == 304
	if parts[3] == "length" && !empty {
		writer.Header().Set("Content-Length", parts[2])
	}
	writer.WriteHeader(status)
	if empty || request.Method == http.MethodHead {
		log(exchange{request.Method, target, status, received, 0})
		return
	}
	body := bodyOf(target, size)
	for at := 0; at < len(body); at += piece {
		end := at + piece
		if end > len(body) {
			end = len(body)
		}
		_, err := writer.Write(body[at:end])
		check(err)
		if parts[3] != "length" {
			writer.(http.Flusher).Flush()
		}
		if parts[3] == "held" && at == 0 {
			say("held")
			wait()
		}
	}
	log(exchange{request.Method, target, status, received, int64(size)})
}

func server(protocol string) {
	certificate, err := tls.LoadX509KeyPair("/server.pem", "/server.pem")
	check(err)
	server := http.Server{Handler: http.HandlerFunc(serve)}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	if protocol == "h1" {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	listener, err := net.Listen("tcp", address)
	check(err)
	say("listening 8443")
	if scheme == "http" {
		check(server.Serve(listener))
	}
	check(server.ServeTLS(listener, "", ""))
}

func send(client *http.Client, step step) {
	// Without a known type the length is unknown, and the body is sent in chunks.
	var body io.Reader
	size := 0
	if step.Body != nil {
		size = *step.Body
		body = bytes.NewReader(bodyOf(step.Target, size))
	}
	if step.Chunked {
		body = io.MultiReader(body)
	}
	request, err := http.NewRequest(step.Method, scheme+"://"+address+step.Target, body)
	check(err)
	response, err := client.Do(request)
	check(err)
	received, err := io.Copy(io.Discard, response.Body)
	check(err)
	check(response.Body.Close())
	log(exchange{step.Method, step.Target, response.StatusCode, int64(size), received})
}

func client(protocol string) {
	pem, err := os.ReadFile(authority)
	check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		check(errors.New("no authority"))
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: protocol == "h2"}
	transport.DisableCompression = true
	if keys := os.Getenv("SSLKEYLOGFILE"); keys != "" {
		file, err := os.OpenFile(keys, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		check(err)
		transport.TLSClientConfig.KeyLogWriter = file
	}
	if protocol == "h1" {
		transport.MaxConnsPerHost = 3
		transport.MaxIdleConnsPerHost = 3
	}
	client := &http.Client{Transport: transport}
	steps := make(chan step)
	var running sync.WaitGroup
	for i := 0; i < workers; i++ {
		running.Add(1)
		go func() {
			defer running.Done()
			for step := range steps {
				send(client, step)
			}
		}()
	}
	file, err := os.ReadFile("/plan/requests.jsonl")
	check(err)
	lines := strings.Split(strings.TrimSpace(string(file)), "\n")
	for number, line := range lines {
		if number == len(lines)/2 {
			wait()
		}
		var next step
		check(json.Unmarshal([]byte(line), &next))
		steps <- next
	}
	close(steps)
	running.Wait()
	transport.CloseIdleConnections()
}

func main() {
	if os.Args[1] == "server" {
		server(os.Args[2])
	} else {
		client(os.Args[2])
	}
}
