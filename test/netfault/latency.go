package netfault

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Latency is an HTTP proxy in front of one server. Its methods may be called
// concurrently.
//
// It reads the heads of requests and answers, and leaves their bodies to the kernel
// (splice): it costs a fraction of what an HTTP server and a client would.
type Latency struct {
	*conns
	addr string

	get, put                   atomic.Int64 // nanoseconds
	gets, puts, sent, received atomic.Int64
}

// Counts is what has passed a proxy.
type Counts struct {
	Puts          int64 // requests that change something or list: PUT, POST, DELETE, GET of a listing
	Gets          int64 // all others
	SentBytes     int64 // of the bodies of requests
	ReceivedBytes int64 // of the bodies of answers
}

// NewLatency starts a proxy in front of the server at addr, HOST:PORT. A request for an
// object (GET, HEAD), a listing or a deletion waits for get before it goes on, a PUT
// for put. The caller closes it.
func NewLatency(addr string, get, put time.Duration) (*Latency, error) {
	c, err := listen()
	if err != nil {
		return nil, fmt.Errorf("start latency proxy: %w", err)
	}
	l := &Latency{conns: c, addr: addr}
	l.Set(get, put)
	l.run(l.serve)
	return l, nil
}

// Set changes how long later requests wait.
func (l *Latency) Set(get, put time.Duration) {
	l.get.Store(int64(get))
	l.put.Store(int64(put))
}

// Counts returns what has passed so far.
func (l *Latency) Counts() Counts {
	return Counts{Puts: l.puts.Load(), Gets: l.gets.Load(), SentBytes: l.sent.Load(), ReceivedBytes: l.received.Load()}
}

// serve passes the requests of one client on, until one of both ends.
func (l *Latency) serve(ctx context.Context, client *net.TCPConn) {
	server, err := l.dial(ctx, l.addr)
	if err != nil {
		return // the client sees its connection close
	}
	defer l.hangUp(server)
	// The methods of requests whose answers are still to come: whoever sends so many
	// at once waits.
	asked := make(chan string, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.answers(client, server, asked) // the end of a connection is no error here
		l.hangUp(client)
		l.hangUp(server)
	}()
	err = l.requests(ctx, client, server, asked)
	close(asked)
	if err != nil {
		l.hangUp(server)
	}
	<-done
}

// requests passes requests on, each after its time.
func (l *Latency) requests(ctx context.Context, client, server *net.TCPConn, asked chan<- string) error {
	in := bufio.NewReaderSize(client, headBytes)
	for {
		head, err := readHead(in)
		if err != nil {
			return err
		}
		method, rest, _ := bytes.Cut(head, []byte(" "))
		target, _, _ := bytes.Cut(rest, []byte(" "))
		if !pause(ctx, l.count(string(method), target)) {
			return ctx.Err()
		}
		select {
		case asked <- string(method):
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := server.Write(head); err != nil {
			return err
		}
		length, known := bodyLength(head)
		if !known {
			if header(head, "Transfer-Encoding") != "" {
				return errChunked
			}
			continue // no body
		}
		if err := passBody(server, in, client, length, &l.sent); err != nil {
			return err
		}
	}
}

// errChunked: nobody who is tested here sends requests in chunks.
var errChunked = errors.New("request without length")

// count counts a request and returns how long it waits.
func (l *Latency) count(method string, target []byte) time.Duration {
	if bytes.Contains(target, []byte("list-type=")) || method != http.MethodGet && method != http.MethodHead {
		l.puts.Add(1)
	} else {
		l.gets.Add(1)
	}
	if method == http.MethodPut {
		return time.Duration(l.put.Load())
	}
	return time.Duration(l.get.Load())
}

// answers passes answers on.
func (l *Latency) answers(client, server *net.TCPConn, asked <-chan string) error {
	in := bufio.NewReaderSize(server, headBytes)
	var method string
	for {
		head, err := readHead(in)
		if err != nil {
			return err
		}
		status := 0
		if f := bytes.Fields(head); len(f) > 1 {
			status, _ = strconv.Atoi(string(f[1])) // what is no number is the client's to refuse
		}
		if _, err := client.Write(head); err != nil {
			return err
		}
		if status/100 == 1 {
			continue // the answer proper follows
		}
		method = <-asked
		if method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
			continue
		}
		length, known := bodyLength(head)
		if !known {
			// In chunks, or to the end of the connection: all that comes is passed on.
			n, err := io.Copy(client, in)
			l.received.Add(n)
			return err
		}
		if err := passBody(client, in, server, length, &l.received); err != nil {
			return err
		}
	}
}

// headBytes is how large the head of a request or an answer may be.
const headBytes = 16 << 10

// readHead returns all up to the empty line. It is good until in is read again.
func readHead(in *bufio.Reader) ([]byte, error) {
	for want := 1; ; {
		if _, err := in.Peek(want); err != nil {
			return nil, err
		}
		have, _ := in.Peek(in.Buffered()) // all that there is
		if end := bytes.Index(have, []byte("\r\n\r\n")); end >= 0 {
			head := have[:end+4]
			_, _ = in.Discard(len(head)) // they are in the buffer, which is not written to meanwhile
			return head, nil
		}
		if len(have) >= headBytes {
			return nil, bufio.ErrBufferFull
		}
		want = len(have) + 1
	}
}

// header returns the value of a field of a head.
func header(head []byte, name string) string {
	for line := range bytes.Lines(head) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// bodyLength returns the length of the body that follows a head, if it says one.
func bodyLength(head []byte) (int64, bool) {
	n, err := strconv.ParseInt(header(head, "Content-Length"), 10, 64)
	return n, err == nil && n >= 0
}

// passBody passes on length bytes, of which in may have the first and from has the rest.
// They are counted first: whoever has got the last of them may look.
func passBody(to *net.TCPConn, in *bufio.Reader, from *net.TCPConn, length int64, count *atomic.Int64) error {
	count.Add(length)
	early := min(length, int64(in.Buffered()))
	if _, err := io.CopyN(to, in, early); err != nil || early == length {
		return err
	}
	// A TCPConn that reads from a limited TCPConn splices.
	n, err := to.ReadFrom(&io.LimitedReader{R: from, N: length - early})
	if err == nil && n < length-early {
		return io.ErrUnexpectedEOF
	}
	return err
}

// pause waits, and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
