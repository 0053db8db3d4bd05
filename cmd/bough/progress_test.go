package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// noticeBuffer is a buffer that says when it was first written to.
type noticeBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	written chan struct{}
	once    sync.Once
}

func (b *noticeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.once.Do(func() { close(b.written) })
	return b.buf.Write(p)
}

func (b *noticeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestProgressLine(t *testing.T) {
	b := &noticeBuffer{written: make(chan struct{})}
	p := &progress{text: "starting", stop: make(chan struct{}), done: make(chan struct{})}
	go p.run(b, time.Now())
	<-b.written
	p.end()
	p.end() // again is nothing
	got := b.String()
	if !strings.Contains(got, "starting") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("progress wrote %q, want the text, and the line removed at the end", got)
	}
}

func TestProgressOfQuickWorkShowsNothing(t *testing.T) {
	b := &noticeBuffer{written: make(chan struct{})}
	p := &progress{text: "starting", stop: make(chan struct{}), done: make(chan struct{})}
	go p.run(b, time.Now())
	p.end()
	if got := b.String(); got != "" {
		t.Errorf("progress wrote %q, want nothing", got)
	}
}

func TestProgressOffTerminal(t *testing.T) {
	var b bytes.Buffer
	for _, a := range []*app{{err: &b, now: time.Now}, {err: &b, now: time.Now, json: true}} {
		p := a.progress("starting")
		p.set("still starting")
		p.end()
	}
	if b.Len() > 0 {
		t.Errorf("progress wrote %q to a buffer", b.String())
	}
}
