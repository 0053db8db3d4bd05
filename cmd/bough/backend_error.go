package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/postgres"
	"github.com/bough-db/bough/wal"
)

// projectError is translate for an error about a project.
func projectError(err error, name string) error {
	switch {
	case errors.Is(err, cow.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "no project %s", name).WithHint("see `bough project list`")
	case errors.Is(err, cow.ErrExists):
		return api.Errorf(api.CodeAlreadyExists, "project %s exists", name).WithHint("choose another name")
	default:
		return translate(err)
	}
}

// branchError is translate for an error about a branch.
func branchError(err error, project, branch string) error {
	if held, ok := errors.AsType[*cow.AttachedError](err); ok {
		return attachedElsewhere(held.Project, held.Name, held.Host, held.Durability, "suspend or detach it")
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	if p, ok := errors.AsType[*cow.PointError](err); ok {
		return pointError(p)
	}
	switch {
	case errors.Is(err, cow.ErrProtected):
		return api.Errorf(api.CodeProtected, "branch %s/%s is protected", project, branch).
			WithHint("run `bough branch set %s/%s --unprotect` first", project, branch)
	case errors.Is(err, cow.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "no branch %s/%s", project, branch).WithHint("see `bough branch list %s`", project)
	case errors.Is(err, cow.ErrExists):
		return api.Errorf(api.CodeAlreadyExists, "branch %s/%s exists", project, branch).WithHint("choose another name")
	case errors.Is(err, cow.ErrInUse), errors.Is(err, blockdev.ErrBusy):
		return api.Errorf(api.CodeInUse, "branch %s/%s is in use: %s", project, branch, oneLine(err.Error())).
			WithHint("end what uses it and try again")
	default:
		return translate(err)
	}
}

// pointError says that a branch has no such point.
func pointError(p *cow.PointError) error {
	e := api.Errorf(api.CodeNoPoint, "%v", p)
	if errors.Is(p, cow.ErrNotBarrier) {
		return e.WithHint("give a time, @seq: or @lsn:")
	}
	return e.WithHint("see `bough log %s/%s`", p.Project, p.Branch)
}

// attachedError says that a user has the branch attached.
func attachedError(project, branch, dir string) error {
	return api.Errorf(api.CodeInUse, "branch %s/%s is attached on %s", project, branch, dir).
		WithHint("run `bough detach %s/%s` first", project, branch)
}

// attachedElsewhere says that a branch can only be worked on by the host that has it,
// and what to run there.
func attachedElsewhere(project, branch, host string, d cow.Durability, there string) error {
	take := "bough start " + project + "/" + branch
	if d != cow.DurabilityRemote {
		take += " --accept-loss"
	}
	return api.Errorf(api.CodeInUse, "branch %s/%s is attached by host %s", project, branch, host).
		WithHint("%s there first; if that host is gone, take the branch over with `%s`", there, take)
}

// translate makes an error of the other packages one of the interface, with
// what to do about it. nil stays nil.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	for _, t := range []struct {
		target error
		code   api.Code
		hint   string
	}{
		{cow.ErrNotFound, api.CodeNotFound, ""},
		{cow.ErrExists, api.CodeAlreadyExists, "choose another name"},
		{cow.ErrInvalidName, api.CodeInvalidName, ""},
		{cow.ErrInvalidSize, api.CodeInvalidRequest, ""},
		{cow.ErrNotKept, api.CodeNoPoint, "see `bough log`"},
		{cow.ErrExpires, api.CodeInvalidRequest, "clear that first, with --expires never"},
		{cow.ErrProtected, api.CodeProtected, "run `bough branch set PROJECT/BRANCH --unprotect` first"},
		{cow.ErrTooMany, api.CodeUnavailable, ""},
		{cow.ErrTooDeep, api.CodeInvalidRequest, "branch from an older ancestor"},
		{cow.ErrFenced, api.CodeFenced, "use it on the host that took it over"},
		{cow.ErrNewerFormat, api.CodeNewerFormat, "run the newer version of bough"},
		{wal.ErrVersion, api.CodeNewerFormat, "run the newer version of bough"},
		{cow.ErrCorrupt, api.CodeCorrupt, "run `bough verify` to see what is affected"},
		{wal.ErrCorrupt, api.CodeCorrupt, "run `bough verify` to see what is affected"},
		{dirstore.ErrDamaged, api.CodeCorrupt, "run `bough verify` to see what is affected"},
		{syscall.EIO, api.CodeCorrupt, "run `bough verify` to see what cannot be read; the daemon's log says when"},
		{wal.ErrFull, api.CodeNoSpace, "make room on the disk; nothing is lost"},
		{syscall.ENOSPC, api.CodeNoSpace, "make room on the disk; nothing is lost"},
		{wal.ErrBudget, api.CodeNoSpace, "suspend a branch, or give `bough serve` more --journal-bytes"},
		{cow.ErrInUse, api.CodeInUse, "end what uses it and try again"},
		{blockdev.ErrBusy, api.CodeInUse, "end what uses it and try again"},
		{blockdev.ErrAttached, api.CodeInUse, "detach it first"},
		{postgres.ErrNotInstalled, api.CodeInvalidRequest, ""},
		{postgres.ErrTemplate, api.CodeInvalidRequest, ""},
		{postgres.ErrBadConf, api.CodeInvalidRequest, ""},
		{postgres.ErrClosed, api.CodeUnavailable, "the daemon is stopping"},
		{cow.ErrClosed, api.CodeUnavailable, "the daemon is stopping"},
		{errStoreSilent, api.CodeUnavailable, "try again when it does; `bough status` shows what waits for it"},
	} {
		if errors.Is(err, t.target) {
			return &api.Error{Code: t.code, Message: oneLine(err.Error()), Hint: t.hint}
		}
	}
	return fmt.Errorf("%s", oneLine(err.Error()))
}
