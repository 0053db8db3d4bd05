package api

import (
	"context"
	"net/http"
	"time"
)

// Upkeep is the part of a [Backend] about the room that everything takes in the store.
type Upkeep interface {
	// Collect removes from the store what nothing can reach any more, all that is
	// worth it, or says what that would be.
	Collect(ctx context.Context, req Collect) (Collected, error)
	// Usage measures what everything takes of the store.
	Usage(ctx context.Context) (Usage, error)
}

// Collect is the request to remove what nothing can reach any more.
type Collect struct {
	// DryRun changes nothing, and reports what would be done.
	DryRun bool `json:"dry_run,omitempty"`
}

// Collected is what a collection has done, or would do.
type Collected struct {
	// Branches is how many logs of branches, deleted ones too, it has looked at.
	Branches int `json:"branches"`
	// Packs is how many packs it has made.
	Packs int `json:"packs"`
	// WrittenBytes is what those take.
	WrittenBytes int64 `json:"written_bytes"`
	// Replaced is how many objects they stand for, which go after a time of grace.
	Replaced int `json:"replaced"`
	// FreeableBytes is what those take, less the packs.
	FreeableBytes int64 `json:"freeable_bytes"`
	// Deleted is how many objects it has deleted.
	Deleted int `json:"deleted"`
	// FreedBytes is what those took.
	FreedBytes int64 `json:"freed_bytes"`
	// Purged is how many deleted branches are gone for good.
	Purged int `json:"purged"`
	// Waiting is how many objects wait for their time of grace to be over.
	Waiting int `json:"waiting"`
	// Pressure says that history was cut short; nil = it was not.
	Pressure *Pressure `json:"pressure,omitempty"`
	// Problems are branches that could not be collected.
	Problems []UpkeepProblem `json:"problems,omitempty"`
}

// Pressure says that the history of all branches takes more than it may.
type Pressure struct {
	// Bytes is what it took when it was measured.
	Bytes int64 `json:"bytes"`
	// BytesMax is what it may take.
	BytesMax int64 `json:"bytes_max"`
	// Since is the time before which nothing is kept, for that reason.
	Since time.Time `json:"since"`
}

// UpkeepProblem is a branch that could not be collected, or measured, and why. Nothing
// has changed for it.
type UpkeepProblem struct {
	// Branch is the id of its log.
	Branch string `json:"branch"`
	// Detail says why, as one line.
	Detail string `json:"detail"`
}

// CollectorStatus is what the collection that happens by itself does.
type CollectorStatus struct {
	// Running says that a collection is under way.
	Running bool `json:"running,omitempty"`
	// Last is when this host collected last; the zero time = it has not yet.
	Last time.Time `json:"last,omitzero"`
	// LastSeconds is how long that took.
	LastSeconds float64 `json:"last_seconds,omitempty"`
	// Result is what it did.
	Result *Collected `json:"result,omitempty"`
	// Error is why the last one failed; "" = it did not.
	Error string `json:"error,omitempty"`
	// Runs, WrittenBytes and FreedBytes are sums since the daemon started.
	Runs         int64 `json:"runs"`
	WrittenBytes int64 `json:"written_bytes"`
	FreedBytes   int64 `json:"freed_bytes"`
	// Pressure says that history is cut short; nil = it is not.
	Pressure *Pressure `json:"pressure,omitempty"`
	// HistoryBytesMax is how much history may take; 0 = there is no bound.
	HistoryBytesMax int64 `json:"history_bytes_max,omitempty"`
}

// Usage is what everything takes of the store, in bytes as stored: the branches' Own
// bytes, DeletedBytes and RecordBytes are TotalBytes.
type Usage struct {
	// Time is when it was measured.
	Time time.Time `json:"time"`
	// TotalBytes is what all objects take.
	TotalBytes int64 `json:"total_bytes"`
	// Objects is how many there are.
	Objects int `json:"objects"`
	// HistoryBytes is what only the past of branches needs.
	HistoryBytes int64 `json:"history_bytes"`
	// DeletedBytes is what deleted branches take, as others need it, or because they
	// can come back.
	DeletedBytes int64 `json:"deleted_bytes"`
	// RecordBytes is what projects, names, hosts and templates take.
	RecordBytes int64 `json:"record_bytes"`
	// Branches are the branches, by project and name; templates are not among them.
	Branches []BranchUsage `json:"branches"`
	// Problems are branches that could not be measured.
	Problems []UpkeepProblem `json:"problems,omitempty"`
}

// BranchUsage is what a branch takes of the store, in bytes as stored.
type BranchUsage struct {
	// Project and Branch are its names.
	Project string `json:"project"`
	Branch  string `json:"branch"`
	// LogicalBytes is what its device holds, not compressed.
	LogicalBytes int64 `json:"logical_bytes"`
	// OwnBytes is what its own objects take.
	OwnBytes int64 `json:"own_bytes"`
	// UniqueBytes is what only its present state needs.
	UniqueBytes int64 `json:"unique_bytes"`
	// SharedBytes is what its present state needs, and other branches too.
	SharedBytes int64 `json:"shared_bytes"`
	// HistoryBytes is what only its past needs.
	HistoryBytes int64 `json:"history_bytes"`
	// DeletionFreesBytes is what goes, at least, when it is deleted.
	DeletionFreesBytes int64 `json:"deletion_frees_bytes"`
}

// upkeepRoutes adds the routes about the room in the store.
func (s *Server) upkeepRoutes(mux *http.ServeMux, root string) {
	mux.HandleFunc("POST "+root+"/gc", work(s, func(ctx context.Context, req Collect) (Collected, error) {
		return s.backend.Collect(ctx, req)
	}))
	mux.HandleFunc("POST "+root+"/usage", work(s, func(ctx context.Context, _ struct{}) (Usage, error) {
		u, err := s.backend.Usage(ctx)
		u.Branches = nonNil(u.Branches)
		return u, err
	}))
}

// work makes a handler of a request that takes as long as it takes, and ends when the
// client hangs up.
func work[Req, Resp any](s *Server, fn func(context.Context, Req) (Resp, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if err := decodeBody(w, r, &req); err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.base, cancel)()
		resp, err := fn(ctx, req)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, resp)
	}
}
