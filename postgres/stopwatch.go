package postgres

import (
	"log/slog"
	"time"
)

// stopwatch tells where the time of a start went.
type stopwatch struct {
	begun, last time.Time
	laps        []any // slog attributes
}

func newStopwatch() *stopwatch {
	now := time.Now()
	return &stopwatch{begun: now, last: now}
}

// lap ends the stage with the name.
func (w *stopwatch) lap(name string) {
	now := time.Now()
	w.laps = append(w.laps, slog.Duration(name, now.Sub(w.last).Round(time.Millisecond/10)))
	w.last = now
}

// total is the time since the beginning.
func (w *stopwatch) total() time.Duration { return time.Since(w.begun).Round(time.Millisecond / 10) }
