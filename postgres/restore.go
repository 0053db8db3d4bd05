package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/bough-db/bough/cow"
	ask "github.com/bough-db/bough/cow/point"
)

// RestoreOptions say what to make of a branch.
type RestoreOptions struct {
	// From is the branch of the same project whose past it is. Default: the branch
	// itself.
	From cow.BranchID
	// At is the point to go back to. Default: the last barrier.
	At ask.Point
	// Own says that it is the branch's own past, whatever From is. Default: it is if From
	// says so.
	Own bool
	// KeepAs is the name of a new branch that has the state before. Default: none.
	KeepAs string
}

// RestoreBranch makes a branch begin anew at a point of its own past, or of another
// branch's; see cow.Store.RestoreBranch. Nobody may use it: Forget it first. After a
// restoration to its own past a branch that does something to the outside, such as main,
// goes on with that; from another branch's past it starts clean, like a new branch of
// that one. The branch that keeps
// the state before starts clean too: there must not be two of it.
func (m *Manager) RestoreBranch(ctx context.Context, project, name string, o RestoreOptions) (cow.BranchInfo, error) {
	fail := func(err error) (cow.BranchInfo, error) {
		return cow.BranchInfo{}, fmt.Errorf("restore branch %s/%s: %w", project, name, err)
	}
	info, err := m.options.Store.Branch(ctx, project, name)
	if err != nil {
		return fail(err)
	}
	own := o.Own || o.From == "" || o.From == info.ID
	settings := func(now json.RawMessage) (json.RawMessage, error) {
		bs, err := BranchSettingsOf(now)
		if err != nil {
			return nil, err
		}
		return encodeSettings(now, bs.restored(own))
	}
	theirs, err := BranchSettingsOf(info.Settings)
	if err != nil {
		return fail(err)
	}
	kept, err := encodeSettings(info.Settings, theirs.inherit(CreateBranchOptions{}))
	if err != nil {
		return fail(err)
	}
	info, err = m.options.Store.RestoreBranch(ctx, info.ID, cow.RestoreOptions{
		From: o.From, At: o.At, KeepAs: o.KeepAs, Settings: settings, KeptSettings: kept,
	})
	if err != nil {
		return fail(err)
	}
	return info, nil
}

// restored returns the settings of a branch that has been restored, to its own past or
// to another branch's. Its first start is to come again, and cleans it if it started
// clean before: the point may be of a time when it had not. How large its file system
// was then is not known.
func (s BranchSettings) restored(own bool) BranchSettings {
	s.Restored = own && s.keeps()
	s.Ready, s.FromTemplate = false, false
	s.FSBytes = fsUnknown
	return s
}

// fsUnknown is a size that no file system has, so that the next start grows it to that
// of the device, whatever it is.
const fsUnknown = cow.BlockSize
