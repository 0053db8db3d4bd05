package s3fault

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errReset is what a connection that the peer has reset returns.
func errReset(op string) error { return &net.OpError{Op: op, Net: "tcp", Err: syscall.ECONNRESET} }

// closing closes the request's body, as a transport has to, and returns err.
func closing(r *http.Request, err error) error {
	if r.Body != nil {
		_ = r.Body.Close() // it has nothing to add
	}
	return err
}

// meet does what was planned for a request.
func (t *Trip) meet(r *http.Request, p plan) (*http.Response, error) {
	switch p.Fault {
	case Unreached:
		return nil, closing(r, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	case ResetRequest:
		if r.Body != nil && r.ContentLength > 0 {
			// Not all of it: what has left as a whole may have arrived.
			_, _ = io.CopyN(io.Discard, r.Body, int64(p.dice%uint64(r.ContentLength)))
		}
		return nil, closing(r, errReset("write"))
	}
	body, err := drain(r)
	if err != nil {
		return nil, err
	}
	switch p.Fault {
	case Internal, SlowDown, Conflict, Refused, Denied, Expired, Skewed, NoBucket, Elsewhere:
		return answers[p.Fault].response(r), nil
	case NotS3:
		return response(r, http.StatusNotFound, "text/html", "<html><body>404 page not found</body></html>"), nil
	case Hang:
		<-r.Context().Done()
		return nil, r.Context().Err()
	case Late:
		return nil, t.later(r, p, body)
	case StaleList:
		if resp := t.stale(r); resp != nil {
			return resp, nil
		}
	case FlipRequest:
		body = flipped(body, p.dice)
	case IgnoreRange:
		r = without(r, "Range")
	case IgnoreCondition:
		r = without(r, "If-None-Match", "If-Match")
	}
	resp, err := t.inner.RoundTrip(withBody(r, body))
	if err != nil {
		return nil, err
	}
	return t.spoil(r, p, resp)
}

// drain reads the request's body, as the wire would.
func drain(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, closing(r, fmt.Errorf("read body: %w", err))
	}
	return body, r.Body.Close()
}

// withBody returns the request as it is sent on.
func withBody(r *http.Request, body []byte) *http.Request {
	out := r.Clone(r.Context())
	out.Body, out.ContentLength = http.NoBody, int64(len(body))
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	return out
}

func without(r *http.Request, headers ...string) *http.Request {
	out := r.Clone(r.Context())
	for _, h := range headers {
		out.Header.Del(h)
	}
	return out
}

// later waits until the client has given up, and sees to it that the request is passed
// on after that.
func (t *Trip) later(r *http.Request, p plan, body []byte) error {
	<-r.Context().Done()
	ctx := context.WithoutCancel(r.Context())
	t.late.Go(func() {
		if p.Wait != nil && p.Wait(ctx) != nil {
			return
		}
		resp, err := t.inner.RoundTrip(withBody(r.WithContext(ctx), body))
		if err == nil {
			_ = resp.Body.Close() // nobody hears the answer
		}
	})
	return r.Context().Err()
}

// spoil makes of a response what the fault has made of it.
func (t *Trip) spoil(r *http.Request, p plan, resp *http.Response) (*http.Response, error) {
	lost := func(err error) (*http.Response, error) {
		_ = resp.Body.Close() // nobody hears the answer
		return nil, err
	}
	switch p.Fault {
	case InternalAfter:
		_ = resp.Body.Close()
		return answers[InternalAfter].response(r), nil
	case Lost:
		<-r.Context().Done()
		return lost(r.Context().Err())
	case ResetAfter:
		return lost(errReset("read"))
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return lost(err)
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	if p.op == List && resp.StatusCode == http.StatusOK {
		t.keep(r, resp, body)
	}
	var rest io.Reader = bytes.NewReader(nil) // what comes after body
	cut := func() []byte {
		if len(body) == 0 {
			return body
		}
		return body[:p.dice%uint64(len(body))]
	}
	switch p.Fault {
	case ResetResponse:
		body, rest = cut(), failing{errReset("read")}
	case ShortBody:
		// What net/http says of a body that ends early.
		body, rest = cut(), failing{io.ErrUnexpectedEOF}
	case Truncated:
		body = cut()
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	case FlipBit:
		body = flipped(body, p.dice)
	case WrongChecksum:
		for name := range resp.Header {
			if strings.HasPrefix(name, "X-Amz-Checksum-") && name != "X-Amz-Checksum-Type" {
				resp.Header.Set(name, base64.StdEncoding.EncodeToString(binaryOf(p.dice)))
			}
		}
	case WrongRange:
		if resp.StatusCode == http.StatusPartialContent {
			resp.Header.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(body)-1, len(body)+1<<20))
		}
	case SlowBody:
		rest = slow{r.Context(), p.Wait, bytes.NewReader(body)}
		body = nil
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), rest))
	return resp, nil
}

// binaryOf returns the four bytes of a checksum that is none.
func binaryOf(dice uint64) []byte {
	return []byte{byte(dice), byte(dice >> 8), byte(dice >> 16), byte(dice >> 24)}
}

// flipped returns a copy of body with one bit inverted.
func flipped(body []byte, dice uint64) []byte {
	if len(body) == 0 {
		return body
	}
	body = slices.Clone(body)
	bit := dice % uint64(len(body)*8)
	body[bit/8] ^= 1 << (bit % 8)
	return body
}

// failing is a body that breaks.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// slow is a body that comes 1 KiB at a time, with a wait before each.
type slow struct {
	ctx  context.Context
	wait func(context.Context) error
	r    io.Reader
}

func (s slow) Read(p []byte) (int, error) {
	if s.wait != nil {
		if err := s.wait(s.ctx); err != nil {
			return 0, err
		}
	}
	return s.r.Read(p[:min(len(p), 1<<10)])
}

// kept is a listing as it was.
type kept struct {
	header http.Header
	body   string
}

// keep remembers a listing.
func (t *Trip) keep(r *http.Request, resp *http.Response, body []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lists[r.URL.RawQuery] = kept{resp.Header.Clone(), string(body)}
}

// stale returns the last listing of the same question, or nil.
func (t *Trip) stale(r *http.Request) *http.Response {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.lists[r.URL.RawQuery]
	if !ok {
		return nil
	}
	resp := response(r, http.StatusOK, "application/xml", k.body)
	resp.Header = k.header.Clone()
	return resp
}

// response makes a response to r.
func response(r *http.Request, status int, contentType, body string) *http.Response {
	if r.Method == http.MethodHead {
		body = ""
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type":     {contentType},
			"Content-Length":   {strconv.Itoa(len(body))},
			"Date":             {time.Now().UTC().Format(http.TimeFormat)},
			"X-Amz-Request-Id": {"FAULT"},
		},
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}
}

// response makes the response of S3 that has the answer's code.
func (a answer) response(r *http.Request) *http.Response {
	resp := response(r, a.status, "application/xml", fmt.Sprintf(
		`<?xml version="1.0" encoding="UTF-8"?>`+"\n"+`<Error><Code>%s</Code><Message>%s</Message><RequestId>FAULT</RequestId></Error>`, a.code, a.message))
	if a.status == http.StatusMovedPermanently {
		resp.Header.Set("X-Amz-Bucket-Region", Region)
	}
	return resp
}
