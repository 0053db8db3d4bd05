package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// The end of a branch, as its manifest tells it:
//
//	deleted   it has no name. It can come back
//	gone      it can not come back: its head is not kept any more. What others need
//	          of its log is
//	doomed    a collection has found nobody who needs anything of it, and looks again.
//	          Whoever makes a branch that needs it finds that out when he reads the
//	          manifest, after he has put his own
//	final     nobody does. Its objects are being deleted, the manifest last
//
// So a branch goes when the last of its children has gone, and its parent may follow.

// doom is in the manifest of a branch that is about to be removed.
type doom struct {
	Nonce nonce     `json:"nonce"` // of the collection that is at it
	Since time.Time `json:"since"`
	Final bool      `json:"final,omitempty"`
}

// bury brings a log that its branch has no more use for nearer to its end. It returns
// true if there is nothing left to do with it.
func (c *collector) bury(ctx context.Context, v *logView) (done bool, err error) {
	if d := v.m.Doom; d != nil && d.Final && !c.o.DryRun {
		return true, c.purge(ctx, v.m)
	}
	if v.lives {
		return false, nil
	}
	if v.current && v.m.Gone.IsZero() && !c.o.DryRun {
		if err := c.markGone(ctx, v); err != nil {
			return true, err
		}
	}
	if len(v.pins) > 0 || !v.current && v.signpost && v.owner != nil {
		return false, nil
	}
	if c.o.DryRun {
		c.rep.Purged++
		c.rep.Freeable += v.bytes()
		return true, nil
	}
	mark := doom{Since: c.s.now().UTC()}
	if mark.Nonce, err = newNonce(c.s.random); err != nil {
		return true, err
	}
	_, err = c.s.updateManifest(ctx, v.m.ID, func(m *manifest) error {
		if m.Doom != nil && (m.Doom.Final || c.s.now().Sub(m.Doom.Since) < claimStale) {
			return errOvertaken // another collection is at it
		}
		m.Doom = &mark
		return nil
	})
	if err == nil {
		c.doomed[v.m.ID] = mark.Nonce
		c.undecide(v.m.ID)
	}
	return true, err
}

// markGone says of a deleted branch that it can not come back any more.
func (c *collector) markGone(ctx context.Context, v *logView) error {
	m, err := c.s.updateManifest(ctx, v.m.ID, func(m *manifest) error {
		if m.Next != "" || m.Deleted.IsZero() || c.s.now().Sub(m.Deleted) < c.o.Undelete {
			return errOvertaken // it has come back
		}
		m.Gone = c.s.now().UTC()
		return nil
	})
	if err != nil {
		return err
	}
	v.m = m // its snapshots stay until the next collection
	return c.forgetDeleted(ctx, m)
}

// forgetDeleted removes the record that leads to a deleted branch, which is gone, and
// its name, if whoever deleted it did not get that far.
func (c *collector) forgetDeleted(ctx context.Context, m *manifest) error {
	if m.Gone.IsZero() || c.cat.standing(m.ID).stray {
		return nil
	}
	if err := c.s.freeName(ctx, m); err != nil {
		return err
	}
	return c.s.objects.Delete(ctx, deletedKey(m.Project, m.branch()))
}

// undecide notes that a branch waits for the second look at all manifests.
func (c *collector) undecide(id BranchID) {
	if !slices.Contains(c.undecided, id) {
		c.undecided = append(c.undecided, id)
	}
}

// condemn ends a branch that this collection has doomed, unless somebody needs it.
func (c *collector) condemn(ctx context.Context, id BranchID) error {
	mark, ok := c.doomed[id]
	if !ok {
		return nil
	}
	st := c.cat.standing(id)
	needed := len(c.cat.pins[id]) > 0 || !st.current && st.signpost && st.owner != nil
	m, err := c.s.updateManifest(ctx, id, func(m *manifest) error {
		switch {
		case m.Doom == nil || m.Doom.Nonce != mark:
			return errOvertaken
		case needed:
			m.Doom = nil
		default:
			m.Doom.Final = true
		}
		return nil
	})
	if err != nil || needed {
		return err
	}
	return c.purge(ctx, m)
}

// purge deletes all objects of a branch, the manifest last.
func (c *collector) purge(ctx context.Context, m *manifest) error {
	id := m.ID
	if err := c.deleteAll(ctx, id); err != nil {
		return err
	}
	if err := c.forgetDeleted(ctx, m); err != nil {
		return err
	}
	if err := c.delete(ctx, manifestKey(id), 0); err != nil {
		return err
	}
	c.s.forked.Remove(id)
	c.s.forgetLog(id)
	c.rep.Purged++
	return nil
}

// deleteAll deletes all objects below a branch but its manifest.
func (c *collector) deleteAll(ctx context.Context, id BranchID) error {
	return c.each(ctx, branchPrefix+string(id)+"/", func(i objstore.Info) error {
		if i.Key == manifestKey(id) {
			return nil
		}
		return c.delete(ctx, i.Key, i.Size)
	})
}

// bytes returns what all objects of the branch take.
func (v *logView) bytes() (n int64) {
	for _, list := range [][]numbered{v.segs, v.ckpts} {
		for _, g := range list {
			n += g.size
		}
	}
	for _, m := range []map[string]int64{v.packs, v.other} {
		for _, size := range m {
			n += size
		}
	}
	return n
}

// sweep deals with what crashes and fenced writers have left in the whole store.
func (c *collector) sweep(ctx context.Context) error {
	for _, id := range c.cat.ids() {
		if err := c.guard(ctx, id, c.sweepUnclaimed); err != nil {
			return err
		}
	}
	return c.sweepNameless(ctx)
}

// sweepUnclaimed deletes a branch that nobody ever wrote to and that no name leads to,
// as if somebody had done so by name: its creation was cut short.
func (c *collector) sweepUnclaimed(ctx context.Context, id BranchID) error {
	n := c.cat.notes[id]
	if n == nil || n.written || n.next != "" || !n.deleted.IsZero() || c.now.Sub(n.created) < c.o.Unclaimed {
		return nil
	}
	m, _, err := c.s.readManifest(ctx, id)
	if err != nil {
		return err
	}
	if claimed, err := c.claimed(ctx, m); claimed || err != nil {
		return err
	}
	if c.o.DryRun {
		return nil
	}
	name := m.Name
	_, err = c.s.updateManifest(ctx, id, func(m *manifest) error {
		// If it was renamed meanwhile the name that was looked up is that of before.
		if m.Epoch > 0 || !m.Deleted.IsZero() || m.Name != name {
			return errOvertaken
		}
		m.Deleted = c.s.now().UTC()
		return nil
	})
	if err != nil {
		return err
	}
	// Whoever was about to claim the name has either done so by now, or finds the
	// branch deleted: see confirm.
	claimed, err := c.claimed(ctx, m)
	if err == nil && claimed {
		_, err = c.s.updateManifest(ctx, id, func(m *manifest) error {
			m.Deleted = time.Time{}
			return nil
		})
	}
	return err
}

// claimed tells whether the branch has a name, or is about to get one: that of a
// project that was made half.
func (c *collector) claimed(ctx context.Context, m *manifest) (bool, error) {
	if m.branch() != m.ID {
		// It is a log that a branch was to go on in when it was restored.
		now, _, err := c.s.readBranch(ctx, m.branch())
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
		return err == nil && now.ID == m.ID, nil
	}
	id, err := c.s.resolve(ctx, m.Project, m.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	if id == m.ID {
		return true, nil
	}
	p, err := c.s.Project(ctx, m.Project)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return p.Main == m.ID, nil
}

// sweepNameless deletes objects of branches that have no manifest: what a writer that
// slept all the time has put into a branch that was removed meanwhile.
func (c *collector) sweepNameless(ctx context.Context) error {
	return c.nameless(ctx, func(i objstore.Info) error {
		if c.o.DryRun {
			c.rep.Waiting++
			return nil
		}
		return c.delete(ctx, i.Key, i.Size)
	})
}

// nameless calls f with the objects of branches that have no manifest.
func (c *collector) nameless(ctx context.Context, f func(objstore.Info) error) error {
	var last BranchID
	var gone bool
	return c.each(ctx, branchPrefix, func(i objstore.Info) error {
		if id := manifestID(i.Key); id != last {
			last, gone = id, false
			if c.cat.notes[id] == nil && checkBranchID(id) == nil {
				// A manifest is put before anything else.
				_, _, err := c.s.readManifest(ctx, id)
				gone = errors.Is(err, ErrNotFound)
			}
		}
		if !gone || i.Key == manifestKey(last) {
			return nil
		}
		return f(i)
	})
}

// each calls f with all objects whose keys begin with the prefix, in order.
func (c *collector) each(ctx context.Context, prefix string, f func(objstore.Info) error) error {
	for after := ""; ; {
		infos, err := c.s.objects.List(ctx, prefix, after, objstore.ListMax)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range infos {
			after = i.Key
			if err := f(i); err != nil {
				return err
			}
		}
		if len(infos) < objstore.ListMax {
			return nil
		}
	}
}

// hollow makes orphans small: segments beyond the end of a log that a fenced writer
// has put. They can not be deleted: the log's writer may be about to put its own in
// their place.
func (c *collector) hollow(ctx context.Context, v *logView) error {
	for _, g := range v.segs {
		if g.n <= v.head.Segment || g.size <= hollowBytes || c.o.DryRun {
			continue
		}
		key := segmentKey(v.m.ID, g.n)
		_, info, err := c.s.objects.ReadAt(ctx, key, make([]byte, 1), -1)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := c.s.readFooter(ctx, v.m.ID, g.n, false) // after the tag
		if isNotExist(err) || err == nil && f.head.Epoch >= v.epoch {
			continue
		}
		if err != nil {
			return err
		}
		enc, err := c.s.encoders.take(ctx)
		if err != nil {
			return err
		}
		data, err := enc.encode(f.head, []wal.Batch{{Seq: 1, Time: time.Unix(0, f.head.Created)}}, nil, 1)
		data = slices.Clone(data)
		c.s.encoders.give(enc)
		if err != nil {
			return err
		}
		if _, err = c.s.objects.Put(ctx, key, data, objstore.Condition{IfMatch: info.Tag}); err != nil {
			if errors.Is(err, objstore.ErrMismatch) {
				continue // replaced
			}
			return err
		}
		c.rep.Freed += g.size - int64(len(data))
	}
	return nil
}

// hollowBytes is what an orphan may take.
const hollowBytes = 1 << 10
