package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressAfter is how long work may take before it is worth a line.
const progressAfter = 300 * time.Millisecond

// progress is a line on a terminal that says what is being waited for. On
// anything else, and with --json, it shows nothing.
type progress struct {
	mu   sync.Mutex
	text string

	stop chan struct{}
	done chan struct{}
}

// progress starts a line. The caller ends it before it prints anything.
func (a *app) progress(text string) *progress {
	p := &progress{text: text}
	if a.json || !terminal(a.err) {
		return p
	}
	p.stop, p.done = make(chan struct{}), make(chan struct{})
	go p.run(a.err, a.now())
	return p
}

// set changes what the line says.
func (p *progress) set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// end removes the line. It may be called more than once, by one goroutine.
func (p *progress) end() {
	if p.stop == nil {
		return
	}
	close(p.stop)
	<-p.done
	p.stop = nil
}

func (p *progress) run(w io.Writer, start time.Time) {
	defer close(p.done)
	const clear = "\r\x1b[K"
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	first := time.NewTimer(progressAfter)
	defer first.Stop()
	select {
	case <-p.stop:
		return
	case <-first.C:
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		p.mu.Lock()
		text := p.text
		p.mu.Unlock()
		fmt.Fprintf(w, "%s%c %s %.1fs", clear, frames[i%len(frames)], text, time.Since(start).Seconds())
		select {
		case <-p.stop:
			fmt.Fprint(w, clear)
			return
		case <-tick.C:
		}
	}
}
