package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
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
		Branches: []api.BranchStatus{}, Collector: b.collector.state(),
	}
	if u := b.store.LastUsage(); u != nil {
		v := usageView(u)
		s.Usage = &v
	}
	clients := map[string]int{}
	for _, c := range b.door.Sessions() {
		clients[c.Project+"/"+c.Branch]++
	}
	read, cancel := context.WithTimeout(ctx, statusReads)
	defer cancel()
	views, err := b.statusViews(read, &s.Store)
	if err != nil {
		s.Store.Error = oneLine(err.Error())
		if read.Err() != nil && ctx.Err() == nil {
			s.Store.Error = fmt.Sprintf("the store does not answer within %v", statusReads)
		}
		views = b.openViews()
	}
	for _, v := range views {
		if st, used := b.branchStatus(v, clients[v.Ref()]); used {
			s.Branches = append(s.Branches, st)
		}
	}
	return s, nil
}

// statusReads is how long a status waits for the store. What is known without it is
// told in any case.
const statusReads = 3 * time.Second

// statusViews reads all branches, and what else the status says about the store.
func (b *backend) statusViews(ctx context.Context, s *api.StoreStatus) ([]api.Branch, error) {
	total := b.meter.Snapshot()
	s.Requests, s.Failures = total.Total().Requests, total.Total().Failures
	s.SentBytes = total[objstore.VerbPut].Bytes
	s.ReceivedBytes = total[objstore.VerbGet].Bytes + total[objstore.VerbReadAt].Bytes
	s.Host, s.API = b.host.ID, b.host.API
	projects, err := b.projects(ctx)
	if err != nil {
		return nil, err
	}
	var views []api.Branch
	for _, p := range projects {
		more, err := b.branchViews(ctx, p.Name)
		if api.CodeOf(err) == api.CodeNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		views = append(views, more...)
	}
	s.Projects, s.Branches = len(projects), len(views)
	if b.host.ID == "" {
		return views, nil
	}
	all, err := b.store.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		s.Hosts = append(s.Hosts, api.HostStatus{ID: h.ID, Started: h.Started, Version: h.Version, API: h.API, Here: h.ID == b.host.ID})
	}
	return views, nil
}

// openViews returns the branches that are open here, without asking the store.
func (b *backend) openViews() []api.Branch {
	var views []api.Branch
	for _, info := range b.disks.all() {
		views = append(views, b.view(info, nil))
	}
	slices.SortFunc(views, func(x, y api.Branch) int { return cmp.Compare(x.Ref(), y.Ref()) })
	return views
}

// branchStatus describes a branch, and says whether it is in use.
func (b *backend) branchStatus(v api.Branch, clients int) (api.BranchStatus, bool) {
	id := cow.BranchID(v.ID)
	held := b.volumes.get(id)
	s := api.BranchStatus{Branch: v, Device: held.device, Mountpoint: held.dir, Connections: clients}
	if open := b.disks.get(id); open != nil {
		st := open.Status()
		s.PendingBytes, s.PendingSince, s.Waiting = st.Exposure, st.Oldest, st.Waiting
		s.StoreError, s.StoreErrorSince = oneLine(st.StoreError), st.StoreErrorSince
		if age := b.app.now().Sub(st.Oldest); s.StoreError == "" && !st.Oldest.IsZero() && age > b.patienceOf(st.Durability) {
			s.StoreError, s.StoreErrorSince = "it has not answered yet", st.Oldest
		}
		s.TakenOver = takenView(st.TakenOver)
		s.Durability = api.Durability(st.Durability)
	}
	return s, v.Attached || v.Error != "" || v.Endpoint != api.EndpointSuspended || held.by != ""
}

// patienceOf is how long it is normal that something is not in the store yet.
func (b *backend) patienceOf(d cow.Durability) time.Duration {
	if d == cow.DurabilityRemote {
		return 5 * time.Second
	}
	return 30 * time.Second // a journal is sealed after 2 s, and then there may be a queue
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
