package s3store_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
)

// instant is a server that costs nothing: what is measured in front of it is the client.
type instant struct{ part []byte }

func (s instant) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{
		StatusCode: http.StatusOK, Request: r, Body: http.NoBody,
		Header: http.Header{"Etag": {`"tag"`}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
	}
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
		return resp, r.Body.Close()
	}
	if r.Method == http.MethodGet {
		resp.StatusCode = http.StatusPartialContent
		resp.ContentLength = int64(len(s.part))
		resp.Header.Set("Content-Length", strconv.Itoa(len(s.part)))
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(s.part)-1, 1<<30))
		resp.Body = io.NopCloser(strings.NewReader(string(s.part)))
	}
	return resp, nil
}

// cpu returns the time that this process has used of the processors.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkClient measures what a call costs on this side, without a network: signing,
// checksums, the SDK.
func BenchmarkClient(b *testing.B) {
	fakeHandler(b) // for the credentials
	part := make([]byte, 64<<10)
	s := open(b, "s3://bough/p?endpoint=http://s3.test", s3store.Options{Wrap: func(http.RoundTripper) http.RoundTripper { return instant{part} }})
	run := func(name string, bytes int, call func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(bytes))
			began := cpu(b)
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		})
	}
	for _, size := range []int{0, 32 << 10, 1 << 20, 16 << 20} {
		body := make([]byte, size)
		run(fmt.Sprintf("Put%dK", size>>10), size, func() error {
			_, err := s.Put(b.Context(), "k", body, objstore.Condition{IfAbsent: true})
			return err
		})
	}
	run("ReadAt64K", len(part), func() error {
		_, _, err := s.ReadAt(b.Context(), "k", part, 0)
		return err
	})
	run("Delete", 0, func() error { return s.Delete(b.Context(), "k") })
}
