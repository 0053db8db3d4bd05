package s3server

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// ForTest starts a server for a test or a benchmark, sets the environment in which it
// runs to the server's credentials, and takes the server down at its end.
func ForTest(tb testing.TB) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), Options{})
	if errors.Is(err, ErrNotBuilt) && os.Getenv("BOUGH_VERSITYGW") == "" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	Setenv(tb, s)
	return s
}

// Setenv sets the environment of a test to what Env returns.
func Setenv(tb testing.TB, s *Server) {
	tb.Helper()
	for _, v := range s.Env() {
		name, value, _ := strings.Cut(v, "=")
		tb.Setenv(name, value)
	}
}
