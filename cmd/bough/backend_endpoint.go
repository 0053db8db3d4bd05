package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/proxy"
)

// detachWait is how long detach waits for programs to leave the mount.
const detachWait = 10 * time.Second

// Start implements api.Endpoints.
func (b *backend) Start(ctx context.Context, project, branch string) (api.Branch, error) {
	if err := b.ready(); err != nil {
		return api.Branch{}, err
	}
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Branch{}, err
	}
	if b.isDeleting(br.ID) {
		return api.Branch{}, branchError(cow.ErrNotFound, project, branch)
	}
	if _, err := b.endpoint.Start(ctx, project, branch); err != nil {
		return api.Branch{}, b.startError(err, project, br)
	}
	return b.viewAlone(ctx, br), nil
}

// startError says what kept an endpoint from starting.
func (b *backend) startError(err error, project string, br cow.BranchInfo) error {
	if held, ok := errors.AsType[*heldError](err); ok {
		return attachedError(project, br.Name, held.at)
	}
	e := branchError(err, project, br.Name)
	if api.CodeOf(e) == api.CodeInternal {
		// A program that reads the branch may be the one to notice.
		if text := err.Error(); strings.Contains(strings.ToLower(text), unix.EIO.Error()) {
			return api.Errorf(api.CodeCorrupt, "%s", oneLine(text)).
				WithHint("run `bough verify %s/%s` to see what cannot be read; the daemon's log says when", project, br.Name)
		}
		if st := b.endpoint.StatusOf(br.ID); st.LogPath != "" {
			return api.Errorf(api.CodeInternal, "%v", err).WithHint("see %s", st.LogPath)
		}
	}
	return e
}

// Suspend implements api.Endpoints.
func (b *backend) Suspend(ctx context.Context, project, branch string) (api.Branch, error) {
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Branch{}, err
	}
	if err := b.endpoint.Stop(ctx, project, branch); err != nil {
		return api.Branch{}, branchError(err, project, branch)
	}
	return b.viewAlone(ctx, br), nil
}

// Connection implements api.Endpoints.
func (b *backend) Connection(ctx context.Context, project, branch string) (api.Connection, error) {
	p, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Connection{}, err
	}
	return b.connection(ctx, p, br)
}

// Attach implements api.Endpoints.
func (b *backend) Attach(ctx context.Context, project, branch string, req api.AttachBranch) (api.Attachment, error) {
	if err := b.ready(); err != nil {
		return api.Attachment{}, err
	}
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Attachment{}, err
	}
	dir := req.Mountpoint
	if dir == "" {
		dir = b.mountpoint(br.ID)
	}
	at, err := b.volumes.attachUser(ctx, br, dir)
	if held, ok := errors.AsType[*heldError](err); ok {
		if held.by == heldByUser {
			return api.Attachment{}, attachedError(project, branch, held.at)
		}
		return api.Attachment{}, api.Errorf(api.CodeInUse, "the Postgres of %s/%s is running on it", project, branch).
			WithHint("run `bough suspend %s/%s` first", project, branch)
	}
	if err != nil {
		b.removeMountpoint(br.ID)
		return api.Attachment{}, branchError(err, project, branch)
	}
	return api.Attachment{Project: project, Branch: branch, Device: at.Device, Mountpoint: at.Dir}, nil
}

// Detach implements api.Endpoints.
func (b *backend) Detach(ctx context.Context, project, branch string) error {
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, detachWait)
	defer cancel()
	err = b.volumes.detachUser(wait, br.ID)
	if errors.Is(err, blockdev.ErrNotAttached) {
		return api.Errorf(api.CodeInvalidRequest, "branch %s/%s is not attached", project, branch).WithHint("see `bough status`")
	}
	if err != nil {
		return branchError(err, project, branch)
	}
	b.removeMountpoint(br.ID)
	return nil
}

// waker starts endpoints for clients at the front door.
type waker struct{ b *backend }

// Wake implements proxy.Waker.
func (w waker) Wake(ctx context.Context, project, branch string) (string, error) {
	_, br, err := w.b.find(ctx, project, branch)
	if api.CodeOf(err) == api.CodeNotFound || err == nil && w.b.isDeleting(br.ID) {
		return "", proxy.ErrNotFound
	}
	if err != nil {
		return "", err
	}
	addr, err := w.b.endpoint.Wake(ctx, project, branch)
	if held, ok := errors.AsType[*heldError](err); ok && held.by == heldByUser {
		return "", &proxy.Error{
			Code: "55006", Message: "branch " + project + "/" + branch + " is attached as a device",
			Hint: "Run `bough detach " + project + "/" + branch + "` on its host.",
		}
	}
	if errors.Is(err, cow.ErrNotFound) {
		return "", proxy.ErrNotFound
	}
	return addr, err
}
