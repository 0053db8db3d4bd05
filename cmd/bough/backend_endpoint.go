package main

import (
	"context"
	"errors"
	"strings"
	"sync"
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
func (b *backend) Start(ctx context.Context, project, branch string, req api.StartBranch) (api.StartedBranch, error) {
	if err := b.ready(); err != nil {
		return api.StartedBranch{}, err
	}
	br, err := b.findToUse(ctx, project, branch)
	if err != nil {
		return api.StartedBranch{}, err
	}
	started := api.StartedBranch{}
	var parent parentName
	var lookUp sync.WaitGroup
	lookUp.Go(func() { parent = b.parent(ctx, br) })
	err = b.taking(ctx, br, req.TakeOver, &started.TakenOver, func() error {
		_, err := b.endpoint.StartBranch(ctx, br)
		return err
	})
	lookUp.Wait()
	if err != nil {
		return api.StartedBranch{}, b.startError(err, project, br)
	}
	b.volumes.started(br.ID, false)
	if open := b.volumes.get(br.ID).branch; open != nil {
		br = open.Info() // it is attached by now
	}
	started.Branch = b.viewBelow(br, parent)
	return started, nil
}

// taking does work that opens a branch, which it first takes over as far as how says
// so; else the work does that if nothing can be lost. taken is set to what was taken
// from whom.
func (b *backend) taking(ctx context.Context, br cow.BranchInfo, how api.TakeOver, taken **api.TakenOver, work func() error) error {
	before := b.volumes.get(br.ID).branch
	if how != (api.TakeOver{}) && b.isElsewhere(br) {
		open, err := b.peers.open(ctx, br.ID, how)
		if err != nil {
			return err
		}
		// Until the work has opened it as well.
		defer func() {
			if err := open.Close(context.WithoutCancel(ctx)); err != nil {
				b.log.Warn("branch that was taken over is not detached", "branch", br.ID, "err", err)
			}
		}()
	}
	if err := work(); err != nil {
		return err
	}
	if now := b.volumes.get(br.ID).branch; now != nil && now != before {
		*taken = takenView(now.TakenOver())
	}
	return nil
}

// takenView is a takeover in the words of the interface.
func takenView(t *cow.TakenOver) *api.TakenOver {
	if t == nil {
		return nil
	}
	return &api.TakenOver{Host: t.Host, Seq: uint64(t.Seq), Time: t.Time, Complete: t.Complete}
}

// startError says what kept an endpoint from starting.
func (b *backend) startError(err error, project string, br cow.BranchInfo) error {
	if held, ok := errors.AsType[*heldError](err); ok {
		return attachedError(project, br.Name, held.at)
	}
	e := branchError(err, project, br.Name)
	if api.CodeOf(e) == api.CodeInternal {
		// A program that reads the branch may be the one to notice, and say so or not.
		text, unread := err.Error(), b.volumes.unreadable(br.ID)
		if unread != "" {
			text = "Postgres could not read its files: " + unread
		}
		if unread != "" || strings.Contains(strings.ToLower(text), unix.EIO.Error()) {
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
	if b.volumes.get(br.ID).branch == nil {
		if err := b.elsewhere(br, "run `bough suspend "+project+"/"+branch+"`"); err != nil {
			return api.Branch{}, err
		}
	}
	if err := b.endpoint.Stop(ctx, project, branch); err != nil {
		return api.Branch{}, branchError(err, project, branch)
	}
	if now, err := b.store.BranchByID(ctx, br.ID); err == nil {
		br = now // it is detached by now
	}
	return b.viewAlone(ctx, br), nil
}

// Connection implements api.Endpoints.
func (b *backend) Connection(ctx context.Context, project, branch string) (api.Connection, error) {
	ref := project + "/" + branch
	if known, ok := b.running.find(ref); ok && known.conn.URL != "" {
		if _, ok := b.endpoint.RunningAt(known.id); ok {
			conn := known.conn
			err := b.addAdmin(&conn, known.id)
			return conn, err
		}
	}
	mark := b.running.mark()
	p, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Connection{}, err
	}
	conn, err := b.connection(ctx, p, br)
	if err == nil {
		known := runningBranch{id: br.ID, conn: conn}
		known.conn.Admin = nil
		b.running.note(ref, known, mark)
	}
	return conn, err
}

// Attach implements api.Endpoints.
func (b *backend) Attach(ctx context.Context, project, branch string, req api.AttachBranch) (api.Attachment, error) {
	if err := b.ready(); err != nil {
		return api.Attachment{}, err
	}
	br, err := b.findToUse(ctx, project, branch)
	if err != nil {
		return api.Attachment{}, err
	}
	if req.At != "" {
		return b.attachPast(ctx, br, req)
	}
	dir := req.Mountpoint
	if dir == "" {
		dir = b.mountpoint(br.ID)
	}
	var at blockdev.Attachment
	var taken *api.TakenOver
	err = b.taking(ctx, br, req.TakeOver, &taken, func() (err error) {
		at, err = b.volumes.attachUser(ctx, br, dir, false)
		return err
	})
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
	return api.Attachment{Project: project, Branch: branch, Device: at.Device, Mountpoint: at.Dir, TakenOver: taken}, nil
}

// attachPast attaches a branch as it was at a point: a throwaway branch, which its file
// system can be repaired on as after a power cut, mounted read-only.
func (b *backend) attachPast(ctx context.Context, of cow.BranchInfo, req api.AttachBranch) (api.Attachment, error) {
	br, err := b.makeThrowaway(ctx, of, req.At)
	if err != nil {
		return api.Attachment{}, err
	}
	dir := req.Mountpoint
	if dir == "" {
		dir = b.mountpoint(br.ID)
	}
	at, err := b.volumes.attachUser(ctx, br, dir, true)
	if err != nil {
		b.removeMountpoint(br.ID)
		b.dropThrowaway(context.WithoutCancel(ctx), br)
		return api.Attachment{}, branchError(err, of.Project, of.Name)
	}
	return api.Attachment{
		Project: br.Project, Branch: br.Name, Device: at.Device, Mountpoint: at.Dir, ReadOnly: true, Of: of.Name, Seq: br.ForkSeq,
	}, nil
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
	if br.Throwaway != "" {
		b.dropThrowaway(context.WithoutCancel(ctx), br)
	}
	return nil
}

// waker starts endpoints for clients at the front door.
type waker struct{ b *backend }

// Wake implements proxy.Waker.
func (w waker) Wake(ctx context.Context, project, branch string) (string, error) {
	ref := project + "/" + branch
	if known, ok := w.b.running.find(ref); ok && !w.b.isQuiet(known.id) {
		if addr, ok := w.b.endpoint.RunningAt(known.id); ok {
			w.b.volumes.started(known.id, true)
			return addr, nil
		}
	}
	mark := w.b.running.mark()
	br, err := w.b.findToUse(ctx, project, branch)
	if api.CodeOf(err) == api.CodeNotFound {
		return "", proxy.ErrNotFound
	}
	if err != nil {
		return "", toClient(err)
	}
	at, err := w.b.endpoint.StartBranch(ctx, br)
	if err == nil {
		w.b.volumes.started(br.ID, true)
	}
	if held, ok := errors.AsType[*heldError](err); ok && held.by == heldByUser {
		return "", &proxy.Error{
			Code: "55006", Message: "branch " + project + "/" + branch + " is attached as a device",
			Hint: "Run `bough detach " + project + "/" + branch + "` on its host.",
		}
	}
	if errors.Is(err, cow.ErrNotFound) {
		return "", proxy.ErrNotFound
	}
	if err != nil {
		return "", toClient(err)
	}
	w.b.running.note(ref, runningBranch{id: br.ID}, mark)
	return at.Address, nil
}

// toClient returns what a client may be told of why an endpoint does not start, who
// has not authenticated yet: that another host has the branch, or that the store does
// not answer.
func toClient(err error) error {
	if e, ok := errors.AsType[*api.Error](translate(err)); ok {
		switch e.Code {
		case api.CodeInUse:
			return &proxy.Error{Code: "55006", Message: e.Message, Hint: e.Hint}
		case api.CodeUnavailable:
			return &proxy.Error{Code: "57P03", Message: e.Message, Hint: e.Hint}
		}
	}
	return err
}

// lost clears away what uses a branch that another host has taken over; see
// volumes.lost.
func (b *backend) lost(ctx context.Context, id cow.BranchID, h holding, reason error) {
	ref := string(id)
	if now, err := b.store.BranchByID(ctx, id); err == nil {
		ref = now.Project + "/" + now.Name
		if now.Host == b.store.HostID() && b.host.ID != "" {
			b.log.Error("another process uses this host's id: was the state directory copied?", "host", now.Host, "state", b.state)
		}
	}
	b.log.Error("branch is lost to this host: its Postgres and its device are stopped", "branch", ref, "id", id, "err", reason)
	var err error
	if h.by == heldByUser {
		err = b.volumes.detachUser(ctx, id)
	} else {
		err = b.endpoint.Abort(ctx, id, reason)
	}
	if err != nil && !errors.Is(err, cow.ErrFenced) {
		b.log.Error("a branch that is lost is still in use here", "branch", ref, "id", id, "err", err)
	}
}
