package netfault

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// cpu returns the time that this process has used of the processors.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLatency measures what requests cost of the processors through the proxy and
// without it, client and server included: the difference is the proxy's.
func BenchmarkLatency(b *testing.B) {
	body := make([]byte, 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(body[:n])
	}))
	defer server.Close()
	l, err := NewLatency(server.Listener.Addr().String(), 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, way := range []struct{ name, addr string }{{"direct", server.Listener.Addr().String()}, {"proxy", l.Address()}} {
		for _, kind := range []struct {
			name, method string
			up, down     int
		}{{"get0", "GET", 0, 0}, {"get64k", "GET", 0, 64 << 10}, {"put4k", "PUT", 4 << 10, 0}, {"put1m", "PUT", 1 << 20, 0}} {
			b.Run(kind.name+"/"+way.name, func(b *testing.B) {
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
				defer client.CloseIdleConnections()
				began := cpu(b)
				for b.Loop() {
					req, err := http.NewRequestWithContext(b.Context(), kind.method, "http://"+way.addr+"/x?n="+strconv.Itoa(kind.down), bytes.NewReader(body[:kind.up]))
					if err != nil {
						b.Fatal(err)
					}
					resp, err := client.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					if err != nil || n != int64(kind.down) {
						b.Fatal(n, err)
					}
					_ = resp.Body.Close()
				}
				b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}
