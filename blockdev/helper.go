package blockdev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperName is the argv[0] under which this binary is a helper process.
const helperName = "bough-blockdev-helper"

// A process that serves a file system must not do I/O on it, and open(2), mount(2),
// umount(2) and the loop ioctls do. They happen in a short-lived child, which is
// this very binary: that is quicker than losetup, mount and umount in turn (one
// start instead of four), needs none of them installed, and can be killed. The
// check is in init, so that every program and test that links this package has
// its helper without doing anything for it.
func init() {
	if len(os.Args) == 1 && os.Args[0] == helperName {
		os.Exit(helperMain(os.Stdin, os.Stdout))
	}
}

// request is what a helper is asked to do; it comes as JSON on its stdin.
type request struct {
	Op       string    `json:"op"`
	Deadline time.Time `json:"deadline"`
	State    string    `json:"state"`
	Mnt      string    `json:"mnt"`

	// Of attach and detach; in cleanup a set ID restricts it to one branch.
	Attachment Attachment `json:"attachment"`
	Format     bool       `json:"format"`
}

// response is the helper's answer, as JSON on its stdout.
type response struct {
	Attachment Attachment    `json:"attachment"`
	Report     CleanupReport `json:"report"`
	Notes      []string      `json:"notes,omitempty"`
	Error      *remoteError  `json:"error,omitempty"`
}

// remoteError is an error that crossed from the helper: its text, and what
// errors.Is can find in it.
type remoteError struct {
	Text  string        `json:"text"`
	Errno syscall.Errno `json:"errno,omitempty"`
	Busy  bool          `json:"busy,omitempty"`
	InUse bool          `json:"in_use,omitempty"`
	Late  bool          `json:"late,omitempty"`
}

func newRemoteError(err error) *remoteError {
	if err == nil {
		return nil
	}
	e := &remoteError{
		Text:  oneLine(err.Error()),
		Busy:  errors.Is(err, ErrBusy),
		InUse: errors.Is(err, ErrInUse),
		Late:  errors.Is(err, context.DeadlineExceeded),
	}
	errors.As(err, &e.Errno)
	return e
}

func (e *remoteError) Error() string { return e.Text }

func (e *remoteError) Unwrap() []error {
	var errs []error
	if e.Errno != 0 {
		errs = append(errs, e.Errno)
	}
	if e.Busy {
		errs = append(errs, ErrBusy)
	}
	if e.InUse {
		errs = append(errs, ErrInUse)
	}
	if e.Late {
		errs = append(errs, context.DeadlineExceeded)
	}
	return errs
}

// helperMain is the helper process.
func helperMain(in io.Reader, out io.Writer) int {
	var (
		req  request
		resp response
	)
	err := json.NewDecoder(in).Decode(&req)
	if err == nil {
		ctx, cancel := context.WithDeadline(context.Background(), req.Deadline)
		defer cancel()
		switch req.Op {
		case "attach":
			err = req.attach(ctx, &resp)
		case "detach":
			err = req.detach(ctx, &resp)
		case "cleanup":
			err = req.cleanup(ctx, &resp)
		case "grow":
			err = req.grow(ctx)
		case "trim":
			err = req.trim()
		case "cache":
			err = req.cache(&resp)
		default:
			err = fmt.Errorf("unknown operation %q", req.Op)
		}
	}
	resp.Error = newRemoteError(err)
	if err := json.NewEncoder(out).Encode(resp); err != nil {
		return 1
	}
	return 0
}

// helperGrace is how long before the caller's deadline the helper gives up by
// itself, to say what it was waiting for; and how long after being killed it may
// take to die before it is said to hang in the kernel.
const helperGrace = 500 * time.Millisecond

// helperGraceMax is how much of a long deadline the helper keeps for that: on a busy
// machine it takes its time to find out who uses a device.
const helperGraceMax = 5 * time.Second

// hungError says that a helper was killed and did not die: it waits in the kernel
// for a device that does not answer. What it was doing may still happen.
type hungError struct {
	ended <-chan struct{} // closed when the helper is gone
	cause error
}

func (e *hungError) Error() string {
	return "helper process hangs in the kernel, waiting for the device: " + e.cause.Error()
}

func (e *hungError) Unwrap() error { return e.cause }

// runHelper has a child process carry out req.
func runHelper(ctx context.Context, timeout time.Duration, req request) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	req.Deadline = deadline.Add(-min(max(time.Until(deadline)/4, helperGrace), helperGraceMax))
	text, err := json.Marshal(req)
	if err != nil {
		return response{}, fmt.Errorf("encode request: %w", err)
	}
	type result struct {
		resp response
		err  error
	}
	done := make(chan result, 1)
	ended := make(chan struct{})
	go func() { // ends with the child
		defer close(ended)
		var out, said bytes.Buffer
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Args = []string{helperName}
		// The least environment: messages in English, no collection of garbage in a
		// process that lives for milliseconds, and, under the race detector, no second
		// of sleep at its end.
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GOGC=off", "GORACE=atexit_sleep_ms=0"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &said
		// A process group of its own: a terminal's interrupt must not stop an
		// unmount half-way, and mkfs must die with the helper.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		cmd.WaitDelay = helperGrace
		var r result
		if r.err = cmd.Run(); r.err == nil {
			r.err = json.Unmarshal(out.Bytes(), &r.resp)
		}
		if r.err != nil && ctx.Err() != nil {
			r.err = ctx.Err()
		} else if r.err != nil {
			r.err = fmt.Errorf("helper process: %w: %s", r.err, oneLine(said.String()))
		}
		done <- r
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(2 * helperGrace)
		defer timer.Stop()
		select {
		case r = <-done:
		case <-timer.C:
			return response{}, &hungError{ended: ended, cause: ctx.Err()}
		}
	}
	if r.err != nil {
		return response{}, r.err
	}
	if r.resp.Error != nil {
		return r.resp, r.resp.Error
	}
	return r.resp, nil
}
