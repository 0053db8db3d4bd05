package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/bough-db/bough/api"
)

// exitError ends this program with the exit code of the one that it ran, which has said
// what there is to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// runPast runs psql on a branch that the daemon makes of a point, and deletes when this
// process is gone, however that comes about.
func (o *psql) runPast(ctx context.Context, bin, project, name, at string, args []string) error {
	c := o.client()
	defer c.Close()
	// Signals are for psql as soon as there is one: they must not end the branch.
	held, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, end)
	p := o.progress("creating a branch of " + project + "/" + name + " " + at)
	created, release, err := c.Throwaway(held, project, name, api.ThrowawayBranch{At: at})
	p.end()
	if err != nil {
		return err
	}
	defer release()
	env, err := o.psqlEnv(ctx, project, created.Branch.Name)
	if err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	if terminal(o.err) {
		fmt.Fprintf(o.err, "%s/%s as of @seq:%d, on the branch %s, which is deleted when psql ends\n",
			project, name, created.Branch.ForkSeq, created.Branch.Ref())
	}
	child := exec.Command(bin, args...)
	child.Args[0] = "psql"
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = o.in, o.out, o.err
	return runChild(child)
}

// runChild runs a program that gets this one's signals, and does not outlive it. It
// returns an exitError if that fails.
func runChild(child *exec.Cmd) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	// The kernel takes the end of the thread for that of the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := child.Start(); err != nil {
		return fmt.Errorf("run %s: %w", child.Path, err)
	}
	ended := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case s := <-signals:
				// A terminal sends these two to the child as well.
				if s != os.Interrupt && s != syscall.SIGQUIT {
					_ = child.Process.Signal(s) // it may have ended
				}
			case <-ended:
				return
			}
		}
	}()
	err := child.Wait()
	close(ended)
	<-forwarded
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case !ok && err != nil:
		return fmt.Errorf("run %s: %w", child.Path, err)
	case !ok:
		return nil
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return exitError(128 + int(s.Signal()))
	}
	return exitError(exit.ExitCode())
}
