package main

import (
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
)

// Version implements api.Daemon.
func (b *backend) Version() api.Version { return buildVersion() }

// Status implements api.Daemon. A store that cannot be read is part of the
// answer, not the end of it.
func (b *backend) Status(ctx context.Context) (api.Status, error) {
	s := api.Status{
		Daemon: api.DaemonStatus{
			Version: buildVersion().Version, PID: os.Getpid(), Started: b.started, StateDir: b.state, Listen: b.listen,
			WriteMode: b.writeMode, MemoryBytes: residentBytes(), MemoryBytesMax: b.memoryBytesMax,
		},
		Store:    api.StoreStatus{Location: b.location},
		Journal:  b.journalStatus(),
		Cache:    b.cacheStatus(),
		Branches: []api.BranchStatus{},
	}
	clients := map[string]int{}
	for _, c := range b.door.Sessions() {
		clients[c.Project+"/"+c.Branch]++
	}
	projects, err := b.projects(ctx)
	if err != nil {
		s.Store.Error = err.Error()
	}
	s.Store.Projects = len(projects)
	for _, p := range projects {
		branches, err := b.branchViews(ctx, p.Name)
		if err != nil && api.CodeOf(err) != api.CodeNotFound {
			s.Store.Error = err.Error()
		}
		s.Store.Branches += len(branches)
		for _, v := range branches {
			if st, used := b.branchStatus(v, clients[v.Ref()]); used {
				s.Branches = append(s.Branches, st)
			}
		}
	}
	return s, nil
}

// branchStatus describes a branch, and says whether it is in use.
func (b *backend) branchStatus(v api.Branch, clients int) (api.BranchStatus, bool) {
	id := cow.BranchID(v.ID)
	held := b.volumes.get(id)
	s := api.BranchStatus{Branch: v, Device: held.device, Mountpoint: held.dir, Connections: clients}
	if open := b.disks.get(id); open != nil {
		st := open.Status()
		s.PendingBytes, s.Waiting = st.Exposure, st.Waiting
	}
	return s, v.Attached || v.Error != "" || v.Endpoint != api.EndpointSuspended || held.by != ""
}

func (b *backend) journalStatus() api.JournalStatus {
	st := b.journals.Stats()
	js := api.JournalStatus{BytesMax: b.journalBytes}
	if st.Files > 0 {
		js.UsedBytes = b.journalBytes / int64(st.Files) * int64(st.Used)
	}
	if st.Waiting > 0 {
		js.Error = strconv.Itoa(st.Waiting) + " writers wait for a journal file: the budget is used up, or the disk is full"
	}
	return js
}

func (b *backend) cacheStatus() api.CacheStatus {
	m, f := b.memory.Stats(), b.frames.Stats()
	return api.CacheStatus{
		MemoryBytes: m.Bytes, MemoryBytesMax: m.BytesMax, MemoryHits: m.Hits, MemoryMisses: m.Misses,
		DiskBytesMax: f.BytesMax, DiskFrames: int64(f.Entries), DiskHits: f.Hits, DiskMisses: f.Misses, DiskCorrupt: f.Damaged,
	}
}

// residentBytes is what the process holds of memory, or 0 if the kernel does
// not say.
func residentBytes() int64 {
	p, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(p))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
