package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bough-db/bough/api"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// How many branches are attached at the same time, and what each writes.
const (
	manyBranches = 50
	manyFile     = 64 << 20 // bytes
	manyWrite    = 4096     // bytes, each followed by fdatasync
	floodWrite   = 1 << 20  // bytes, without fdatasync
	floodWriters = 4
)

// share is what one of many branches got.
type share struct {
	commits int
	took    []time.Duration
}

// many attaches many branches at once and has each commit small writes, first
// among themselves, then beside one that floods. What the others get then says
// how fairly the daemon shares journals, memory and time.
func (s *scale) many(ctx context.Context, o options) error {
	if _, err := s.c.CreateProject(ctx, api.CreateProject{Name: "many"}); err != nil {
		return err
	}
	dirs := make([]string, manyBranches+1)
	for i := range dirs {
		name := fmt.Sprintf("b%d", i)
		if _, err := s.branch(ctx, "many", name); err != nil {
			return err
		}
		dirs[i] = filepath.Join(s.root, "many", name)
		if err := s.d.call(ctx, nil, "attach", "many/"+name, dirs[i]); err != nil {
			return err
		}
	}
	for _, flooded := range []bool{false, true} {
		what := fmt.Sprintf("write and fdatasync on %d branches", manyBranches)
		phase, cancel := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second)
		g, gctx := errgroup.WithContext(phase)
		if flooded {
			what += ", one more floods"
			for w := range floodWriters {
				g.Go(func() error { return flood(gctx, filepath.Join(dirs[manyBranches], fmt.Sprint("x", w))) })
			}
		}
		shares := make([]share, manyBranches)
		for i := range shares {
			g.Go(func() error { return shares[i].commitAll(gctx, filepath.Join(dirs[i], "x")) })
		}
		err := g.Wait()
		cancel()
		if err != nil {
			return err
		}
		s.addShares(what, shares)
	}
	for i := range dirs {
		if err := s.d.call(ctx, nil, "detach", fmt.Sprintf("many/b%d", i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *scale) addShares(what string, shares []share) {
	var all []time.Duration
	var commits []int
	for _, sh := range shares {
		all = append(all, sh.took...)
		commits = append(commits, sh.commits)
	}
	s.add(what, all)
	fmt.Printf("%-52s %d to %d commits a branch\n", "", slices.Min(commits), slices.Max(commits))
}

// commitAll writes and syncs until the context ends.
func (sh *share) commitAll(ctx context.Context, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(manyFile); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(name))))
	buf := make([]byte, manyWrite)
	for ctx.Err() == nil {
		for i := range buf {
			buf[i] = byte(rng.Uint32())
		}
		start := time.Now()
		if _, err := f.WriteAt(buf, rng.Int64N(manyFile/manyWrite)*manyWrite); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		sh.commits++
		sh.took = append(sh.took, time.Since(start))
	}
	return nil
}

// flood writes as fast as it can until the context ends.
func flood(ctx context.Context, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, floodWrite)
	for i := range buf {
		buf[i] = byte(rand.Uint32())
	}
	for at := int64(0); ctx.Err() == nil; at = (at + floodWrite) % (1 << 30) {
		if _, err := f.WriteAt(buf, at); err != nil {
			return err
		}
	}
	return nil
}
