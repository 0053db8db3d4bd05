package main

import (
	"context"
	"log/slog"
	"sync"
	"testing"
)

// TestCrowd lets many clients come and go: the last that is told is the truth.
func TestCrowd(t *testing.T) {
	c := newCrowd(slog.New(slog.DiscardHandler))
	told := make(chan int, 1000)
	c.tune = func(_ context.Context, project, branch string) error {
		told <- c.of(project, branch)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs, clients sync.WaitGroup
	runs.Go(func() { c.run(ctx) })
	for i := range 200 {
		clients.Go(func() {
			c.SessionBegins("p", "main")
			if i%2 == 0 {
				c.SessionEnds("p", "main")
			}
		})
	}
	clients.Wait()
	for n := range told {
		if n == 100 {
			break
		}
	}
	for range 100 {
		c.SessionEnds("p", "main")
	}
	for n := range told {
		if n == 0 {
			break
		}
	}
	if n := len(c.clients); n != 0 {
		t.Errorf("%d branches are counted when nobody is there", n)
	}
	cancel()
	runs.Wait()
}
