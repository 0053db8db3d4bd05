package postgres

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
)

// volume is a branch that is open and mounted. Its methods take turns.
type volume struct {
	volumes Volumes
	id      cow.BranchID
	mounted bool
	release func(context.Context) error
}

// mount opens the branch, attaches it and mounts its file system, which is made
// first if format is set.
func (m *Manager) mount(ctx context.Context, info cow.BranchInfo, format bool) (*volume, error) {
	v, err := m.hold(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	if err := v.mount(ctx, m, info, format); err != nil {
		return nil, errors.Join(err, v.unmount(context.WithoutCancel(ctx)))
	}
	return v, nil
}

// hold opens the branch.
func (m *Manager) hold(ctx context.Context, id cow.BranchID) (*volume, error) {
	release, err := m.options.Hold(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open branch: %w", err)
	}
	return &volume{volumes: m.options.Volumes, id: id, release: release}, nil
}

// mount attaches the branch that is open and mounts its file system.
func (v *volume) mount(ctx context.Context, m *Manager, info cow.BranchInfo, format bool) error {
	_, err := v.volumes.Attach(ctx, blockdev.AttachOptions{
		ID: string(info.ID), Dir: m.layout.mount(info.ID), Format: format,
		File: filepath.Join(m.options.Mnt, info.Project, info.Name, "disk"), WriteThrough: m.options.WriteThrough,
	})
	v.mounted = err == nil
	return err
}

// unmount unmounts, detaches and closes the branch. If the first fails, it can
// be called again.
func (v *volume) unmount(ctx context.Context) error {
	if v.mounted {
		if err := v.volumes.Detach(ctx, string(v.id)); err != nil && !errors.Is(err, blockdev.ErrNotAttached) {
			return err
		}
		v.mounted = false
	}
	if err := v.release(ctx); err != nil {
		return fmt.Errorf("close branch: %w", err)
	}
	return nil
}
