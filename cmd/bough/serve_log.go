package main

import (
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/lmittmann/tint"
)

// newLogger returns a log for a person at a terminal, for a program (JSON), or
// for a file.
func newLogger(w io.Writer, terminal, json, plain bool, level slog.Level) *slog.Logger {
	switch {
	case json:
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	case terminal:
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: plain}))
	default:
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	}
}

// notify tells the service manager about the state, if there is one: socket is
// NOTIFY_SOCKET, a path or, with a leading @, an abstract name. That it does
// not listen is its own affair.
func notify(socket, state string) {
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
