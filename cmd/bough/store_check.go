package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
)

// storeCheck is `bough store check`.
type storeCheck struct{ *app }

func (a *app) storeCheckCmd() *cobra.Command {
	o := &storeCheck{app: a}
	return &cobra.Command{
		Use:   "check URL|DIRECTORY",
		Short: "Try whether a store does what bough needs",
		Long: "Try on a bucket or a directory what bough relies on: conditional puts, one at a time\n" +
			"and eight at once, reads of parts, and that everything is seen at once. It needs no\n" +
			"daemon. It works on objects of its own below probe/, and removes them.\n\n" +
			"On a store that fails, writers would overwrite each other: it exits with 1, and serve\n" +
			"refuses such a store.",
		Example: "  bough store check s3://bucket/prefix\n" +
			"  bough store check 's3://bucket/prefix?endpoint=https://s3.example.com&region=eu-central-1'",
		Args: wantArgs("URL|DIRECTORY"),
		RunE: o.run,
	}
}

// checkedStore is the answer, for --json.
type checkedStore struct {
	Location string         `json:"location"`
	Fit      bool           `json:"fit"`
	Checks   []checkedThing `json:"checks"`
}

// checkedThing is one line of the answer. Result is ok, failed or, of what bough can do
// without, missing.
type checkedThing struct {
	Check   string `json:"check"`
	Result  string `json:"result"`
	Detail  string `json:"detail,omitempty"`
	TookMic int64  `json:"took_us"`
}

// The results of a check.
const (
	resultOK      = "ok"
	resultFailed  = "failed"
	resultMissing = "missing"
)

func (o *storeCheck) run(cmd *cobra.Command, args []string) error {
	location := args[0]
	if err := checkLocation(location); err != nil {
		return usageError{err}
	}
	if !isURL(location) {
		if err := errors.Join(checkDir(location), checkStoreDir(location)); err != nil {
			return err
		}
		dir, err := filepath.Abs(location)
		if err != nil {
			return fmt.Errorf("find store directory: %w", err)
		}
		location = dir
	}
	answer, err := o.check(cmd.Context(), location)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run as root", err)
	}
	if err != nil {
		return err
	}
	return o.print(answer)
}

// check makes all checks. Its error is what kept it from that.
func (o *storeCheck) check(ctx context.Context, location string) (answer checkedStore, err error) {
	// What it is being told by way of log, it says in its answer.
	s, err := openObjects(ctx, location, objectOptions{exclusive: true, patience: probePatience, logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	answer = checkedStore{Location: location, Fit: true}
	prefix := probePrefix()
	checks, err := objstore.ProbeChecks(ctx, s, prefix)
	if err != nil {
		return answer, err
	}
	for _, c := range checks {
		thing := checkedThing{Check: c.Name, Result: resultOK, TookMic: c.Took.Microseconds()}
		if c.Err != nil {
			answer.Fit = false
			thing.Result, thing.Detail = resultFailed, oneLine(c.Err.Error())
		}
		answer.Checks = append(answer.Checks, thing)
	}
	if s3, ok := s.(*s3store.Store); ok {
		thing, err := damage(ctx, s3, prefix+"/damaged")
		if err != nil {
			return answer, err
		}
		answer.Checks = append(answer.Checks, thing)
	}
	return answer, nil
}

// damage checks what makes a store better, and is not needed: every object that bough
// writes has checksums of its own.
func damage(ctx context.Context, s *s3store.Store, key string) (checkedThing, error) {
	begun := time.Now()
	takes, err := s.TakesDamaged(ctx, key)
	if err != nil {
		return checkedThing{}, err
	}
	thing := checkedThing{Check: "refuses a body damaged on its way", Result: resultOK, TookMic: time.Since(begun).Microseconds()}
	if takes {
		thing.Result = resultMissing
		thing.Detail = "it took a body with a wrong CRC-32C: what is damaged on its way is noticed only when it is read"
	}
	return thing, nil
}

func (o *storeCheck) print(answer checkedStore) error {
	unfit := fmt.Errorf("%w: data would be lost on it: choose another server", objstore.ErrUnfit)
	if o.json {
		if err := o.printJSON(answer); err != nil {
			return err
		}
		if !answer.Fit {
			return unfit
		}
		return nil
	}
	w := o.styled()
	t := table{header: []string{"THE STORE", "RESULT", "TOOK", "WHAT IT DID"}}
	good, poor := lipgloss.NewStyle().Foreground(lipgloss.Green), lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	for _, c := range answer.Checks {
		result := good.Render(c.Result)
		switch c.Result {
		case resultFailed:
			result = alarm(c.Result)
		case resultMissing:
			result = poor.Render(c.Result)
		}
		took := time.Duration(c.TookMic) * time.Microsecond
		t.add(c.Check, result, took.Round(100*time.Microsecond).String(), c.Detail)
	}
	if err := t.write(w, ""); err != nil {
		return err
	}
	if !answer.Fit {
		return unfit
	}
	_, err := fmt.Fprintf(w, "\n%s keeps the contract\n", answer.Location)
	return err
}
