package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/postgres/walpage"
)

// At implements branchfs.Past.
func (f *branchFile) At(ctx context.Context, text string) (branchfs.Branch, error) {
	p, err := point.Parse(text, time.Local)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return f.moment(ctx, p)
}

// Snapshots implements branchfs.Past.
func (f *branchFile) Snapshots(ctx context.Context) ([]string, error) {
	all, err := f.disks.store.Snapshots(ctx, f.info.ID)
	if err != nil {
		return nil, notExist(err)
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	return names, nil
}

// Snapshot implements branchfs.Past.
func (f *branchFile) Snapshot(ctx context.Context, name string) (branchfs.Branch, error) {
	return f.moment(ctx, point.Point{Kind: point.Snapshot, Name: name})
}

func (f *branchFile) moment(ctx context.Context, p point.Point) (branchfs.Branch, error) {
	at, err := f.disks.store.Resolve(ctx, f.info.ID, p)
	switch {
	case errors.Is(err, cow.ErrNoPoint), errors.Is(err, cow.ErrNotBarrier):
		return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	case err != nil:
		return nil, notExist(err)
	}
	return &momentFile{of: f, at: at}, nil
}

// momentFile is a branch as it was at a barrier.
type momentFile struct {
	of *branchFile
	at cow.Barrier
}

// Info implements branchfs.Branch.
func (m *momentFile) Info() branchfs.Info {
	return branchfs.Info{
		ID:   fmt.Sprintf("%s@%s@%d", m.of.info.ID, m.at.Log, m.at.Seq),
		Size: m.of.info.Size, Modified: m.at.Time, ReadOnly: true,
	}
}

// Open implements branchfs.Branch.
func (m *momentFile) Open(ctx context.Context) (branchfs.Disk, error) {
	v, err := m.of.disks.store.OpenBarrier(ctx, m.of.info.ID, m.at)
	if errors.Is(err, cow.ErrTooMany) {
		return nil, errnoError{err, syscall.ENFILE}
	}
	if err != nil {
		return nil, notExist(err)
	}
	return momentDisk{v}, nil
}

// momentStatus is what a moment's status.json holds.
type momentStatus struct {
	Project  string       `json:"project"`
	Branch   string       `json:"branch"`
	BranchID cow.BranchID `json:"branch_id"`
	Seq      uint64       `json:"seq"`
	Time     time.Time    `json:"time"`
	LSN      string       `json:"lsn,omitempty"`
	Timeline uint32       `json:"timeline,omitempty"`
}

// Status implements branchfs.Branch.
func (m *momentFile) Status(context.Context) ([]byte, error) {
	s := momentStatus{
		Project: m.of.info.Project, Branch: m.of.info.Name, BranchID: m.of.info.ID,
		Seq: uint64(m.at.Seq), Time: m.at.Time, Timeline: walpage.Timeline(m.at.Line),
	}
	if m.at.LSN > 0 {
		s.LSN = walpage.FormatLSN(m.at.LSN)
	}
	p, err := json.MarshalIndent(s, "", "  ")
	return append(p, '\n'), err
}

// errnoError is an error that the file system answers with errno.
type errnoError struct {
	error
	errno syscall.Errno
}

func (e errnoError) Unwrap() error        { return e.error }
func (e errnoError) Errno() syscall.Errno { return e.errno }

// momentDisk is an open moment. The file system does not write it.
type momentDisk struct{ *cow.View }

// WriteAt implements blockdev.Device.
func (momentDisk) WriteAt(context.Context, []byte, int64) error {
	return errnoError{errors.New("the past cannot be written"), syscall.EROFS}
}

// Flush implements blockdev.Device.
func (momentDisk) Flush(context.Context) error { return nil }

// Close implements branchfs.Disk.
func (d momentDisk) Close(context.Context) error {
	d.View.Close()
	return nil
}
