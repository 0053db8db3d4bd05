package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ask "github.com/bough-db/bough/cow/point"
)

// snapshot makes or deletes one.
func (m *timeModel) snapshot(ctx context.Context, p *pastBranch) error {
	name := fmt.Sprintf("s%d", m.rng.IntN(4))
	if _, ok := p.snap[name]; ok && m.rng.IntN(2) == 0 {
		delete(p.snap, name)
		return m.store.DeleteSnapshot(ctx, p.id, name)
	}
	at, want := m.pick(p)
	wait(time.Nanosecond) // two of one name, barrier and instant are the same snapshot
	info, err := m.store.CreateSnapshot(ctx, p.id, name, at)
	_, taken := p.snap[name]
	switch {
	case want == nil:
		if !errors.Is(err, ErrNoPoint) {
			return fmt.Errorf("snapshot at %v: %v, want ErrNoPoint", at, err)
		}
		return nil
	case taken:
		if !errors.Is(err, ErrExists) {
			return fmt.Errorf("snapshot with a name that is taken: %v, want ErrExists", err)
		}
		return nil
	case err != nil:
		return err
	}
	b := *want
	b.Bytes = 0
	if !sameBarrier(info.Barrier, b.Barrier) {
		return fmt.Errorf("snapshot at %v is of %+v, want %+v", at, info.Barrier, b.Barrier)
	}
	p.snap[name] = b
	m.pasts = append(m.pasts, slices.Clone(p.past))
	return nil
}

// pastOf returns the past of a barrier that some branch once had.
func (m *timeModel) pastOf(b pastBarrier) []pastBarrier {
	for _, past := range m.pasts {
		for i := range past {
			if past[i].Log == b.Log && past[i].Seq == b.Seq {
				return past[:i+1]
			}
		}
	}
	return nil
}

// restore takes a branch back to a point of its own past or of another's.
func (m *timeModel) restore(ctx context.Context, p *pastBranch) error {
	if err := m.flush(ctx, p); err != nil { // and what it left in a hurry gets a fence
		return err
	}
	src := p
	if m.rng.IntN(3) == 0 {
		src = m.all[m.rng.IntN(len(m.all))]
		if err := m.flush(ctx, src); err != nil {
			return err
		}
	}
	at, want := m.pick(src)
	o := RestoreOptions{From: src.id, At: at}
	if p.dev != nil && want != nil {
		if _, err := m.store.RestoreBranch(ctx, p.id, o); !errors.Is(err, ErrInUse) {
			return fmt.Errorf("restore a branch that is open: %v, want ErrInUse", err)
		}
	}
	if err := m.close(ctx, p); err != nil {
		return err
	}
	if at.Kind == ask.Head && want == nil {
		return nil
	}
	if m.rng.IntN(2) == 0 && len(m.all) < 12 {
		m.made++
		o.KeepAs = fmt.Sprintf("k%d", m.made)
	}
	_, err := m.store.RestoreBranch(ctx, p.id, o)
	if want == nil {
		if !errors.Is(err, ErrNoPoint) {
			return fmt.Errorf("restore to %v: %v, want ErrNoPoint", at, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if o.KeepAs != "" {
		info, err := m.store.Branch(ctx, "p", o.KeepAs)
		if err != nil {
			return err
		}
		m.adopt(&pastBranch{name: o.KeepAs, open: map[uint64]bool{}}, info.ID, p.past)
	}
	m.pasts = append(m.pasts, slices.Clone(p.past))
	i := slices.IndexFunc(src.past, func(b pastBarrier) bool { return b.Seq == want.Seq && b.Log == want.Log })
	past := src.past[:i+1]
	if i < 0 {
		past = m.pastOf(*want)
	}
	p.past, p.now = slices.Clone(past), slices.Clone(want.state)
	p.mark = p.last().Mark
	return nil
}

// remove deletes a branch, and perhaps brings it back.
func (m *timeModel) remove(ctx context.Context, p *pastBranch) error {
	if err := m.close(ctx, p); err != nil {
		return err
	}
	if err := m.store.DeleteBranch(ctx, "p", p.name); err != nil {
		return err
	}
	if m.rng.IntN(2) == 0 {
		m.made++
		p.name = fmt.Sprintf("u%d", m.made)
		_, err := m.store.UndeleteBranch(ctx, p.id, p.name)
		return err
	}
	m.all = slices.DeleteFunc(m.all, func(o *pastBranch) bool { return o == p })
	return nil
}
