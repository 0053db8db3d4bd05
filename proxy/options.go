package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Options are the settings of a Server. Waker is required; every other zero
// value stands for its default.
type Options struct {
	// Waker starts endpoints. Required.
	Waker Waker
	// Observer is told of every session. Default: nobody is.
	Observer Observer
	// ReservedRoles may not log in through the door. Default: postgres. To
	// reserve none, give an empty list that is not nil.
	ReservedRoles []string
	// WakeTimeout bounds a client's wait for its backend, and each Wake.
	// Default: 60 s.
	WakeTimeout time.Duration
	// HandshakeTimeout bounds the time from accept to the end of the startup
	// packet, and the delivery of a cancel request. Default: 10 s.
	HandshakeTimeout time.Duration
	// DialTimeout bounds one dial of a backend. Default: 5 s.
	DialTimeout time.Duration
	// KeepAlive is the idle time after which a silent peer is probed; it is
	// given up after six probes without an answer, each a sixth of this apart.
	// Default: 60 s.
	KeepAlive time.Duration
	// MaxSessions bounds the clients that wait for a backend or have one. A
	// session takes up to six file descriptors. Default: 1000.
	MaxSessions int
	// MaxBranchSessions bounds those of one branch, so that a branch that is
	// slow to start cannot take all places. Default: half of MaxSessions.
	MaxBranchSessions int
	// MaxHandshakes bounds the connections that have not said yet what they
	// want; more wait in the listener's queue. Default: 256.
	MaxHandshakes int
	// Logger takes what the operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

// Observer follows the sessions of each branch, for what depends on a branch
// being in use. The calls come from many goroutines, must not block, and must
// not call the Server.
type Observer interface {
	// SessionBegins is called before the branch is woken for a client, so that
	// an endpoint that is stopped only while it has no session cannot be stopped
	// between its wake and the client's arrival. The branch may not exist.
	SessionBegins(project, branch string)
	// SessionEnds is called once for every SessionBegins, after the connection
	// to the backend is closed.
	SessionEnds(project, branch string)
}

// withDefaults returns o with its defaults filled in, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Waker == nil {
		errs = append(errs, errors.New("waker is missing"))
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.ReservedRoles == nil {
		o.ReservedRoles = []string{"postgres"}
	}
	if slices.Contains(o.ReservedRoles, "") {
		errs = append(errs, errors.New("a reserved role has no name"))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"wake timeout", &o.WakeTimeout, 60 * time.Second},
		{"handshake timeout", &o.HandshakeTimeout, 10 * time.Second},
		{"dial timeout", &o.DialTimeout, 5 * time.Second},
		{"keep-alive", &o.KeepAlive, 60 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("%s %s is negative", d.name, *d.value))
		}
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = 1000
	}
	if o.MaxBranchSessions == 0 {
		o.MaxBranchSessions = (o.MaxSessions + 1) / 2
	}
	if o.MaxHandshakes == 0 {
		o.MaxHandshakes = 256
	}
	if o.MaxSessions < 0 || o.MaxBranchSessions < 0 || o.MaxHandshakes < 0 {
		errs = append(errs, errors.New("a maximum is negative"))
	}
	if len(errs) > 0 {
		return o, fmt.Errorf("proxy options: %w", errors.Join(errs...))
	}
	return o, nil
}

// nobody is the Observer of those who want none.
type nobody struct{}

// SessionBegins does nothing.
func (nobody) SessionBegins(string, string) {}

// SessionEnds does nothing.
func (nobody) SessionEnds(string, string) {}
