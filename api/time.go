package api

import (
	"context"
	"time"

	"github.com/bough-db/bough/cow/point"
)

// Moments is the part of a [Backend] about the past of branches. A point is what
// package point reads; "" is the last barrier. A branch without such a point is
// CodeNoPoint, with the nearest one in the message.
type Moments interface {
	// Log returns barriers of a branch's history.
	Log(ctx context.Context, project, branch string, q LogQuery) (LogPage, error)
	// ListSnapshots returns a branch's snapshots, by name.
	ListSnapshots(ctx context.Context, project, branch string) ([]Snapshot, error)
	// CreateSnapshot gives a name to a barrier.
	CreateSnapshot(ctx context.Context, project, branch string, req CreateSnapshot) (Snapshot, error)
	// DeleteSnapshot takes a snapshot's name away.
	DeleteSnapshot(ctx context.Context, project, branch, name string) error
	// RestoreBranch makes a branch begin anew at a point.
	RestoreBranch(ctx context.Context, project, branch string, req RestoreBranch) (RestoredBranch, error)
	// ListDeleted returns a project's deleted branches that can come back.
	ListDeleted(ctx context.Context, project string) ([]DeletedBranch, error)
	// UndeleteBranch brings a deleted branch back; name is its name or its id.
	UndeleteBranch(ctx context.Context, project, name string, req UndeleteBranch) (Branch, error)
	// Throwaway makes a branch for one use, calls ready with it, and deletes it when
	// ctx ends, which it waits for.
	Throwaway(ctx context.Context, project, branch string, req ThrowawayBranch, ready func(CreatedBranch) error) error
}

// Barrier is one moment of a branch's past that can be opened.
type Barrier struct {
	// Seq is its number.
	Seq uint64 `json:"seq"`
	// Time is when it was made.
	Time time.Time `json:"time"`
	// LSN is the WAL page that the WAL reached then, as Postgres writes it; "" where
	// that is not known.
	LSN string `json:"lsn,omitempty"`
	// Timeline is the WAL's.
	Timeline uint32 `json:"timeline,omitempty"`
	// Bytes is what was written since the barrier before.
	Bytes int64 `json:"bytes"`
}

// LogQuery says which barriers of a branch to return.
type LogQuery struct {
	// Before leaves out the barrier of that number and later ones; 0 = none.
	Before uint64 `json:"before,omitempty"`
	// After leaves out the barrier of that number and earlier ones; 0 = none.
	After uint64 `json:"after,omitempty"`
	// Since leaves out barriers before that time.
	Since time.Time `json:"since,omitzero"`
	// OldestFirst turns the order round.
	OldestFirst bool `json:"oldest_first,omitempty"`
	// Limit is how many to return at most. Default: 100; at most LogMax.
	Limit int `json:"limit,omitempty"`
}

// LogMax is how many barriers one answer has at most.
const LogMax = 10000

// LogPage is the answer to a LogQuery.
type LogPage struct {
	// Barriers are the barriers; never null.
	Barriers []Barrier `json:"barriers"`
	// More says that there are more: ask again with the last one's Seq as Before, or
	// as After if the oldest come first.
	More bool `json:"more"`
}

// Snapshot is a barrier with a name, which stays for as long as the name.
type Snapshot struct {
	// Name is its name within the branch.
	Name string `json:"name"`
	// Created is when it got that name.
	Created time.Time `json:"created"`
	// Barrier is what it names.
	Barrier Barrier `json:"barrier"`
}

// CreateSnapshot is the request to give a name to a barrier.
type CreateSnapshot struct {
	// Name is the snapshot's name.
	Name string `json:"name"`
	// At is the point. Default: the last barrier.
	At string `json:"at,omitempty"`
}

// SnapshotList is the answer to a list of snapshots, by name.
type SnapshotList struct {
	// Snapshots are the snapshots; never null.
	Snapshots []Snapshot `json:"snapshots"`
}

// RestoreBranch is the request to make a branch begin anew at a point of the past.
type RestoreBranch struct {
	// From is the branch of the same project whose past it is. Default: the branch
	// itself.
	From string `json:"from,omitempty"`
	// Parent says that From is the branch's parent.
	Parent bool `json:"parent,omitempty"`
	// At is the point. Default: the last barrier.
	At string `json:"at,omitempty"`
	// KeepAs is the name of a new branch that has the state before. Default: none,
	// and it is lost.
	KeepAs string `json:"keep_as,omitempty"`
}

// RestoredBranch is the answer to RestoreBranch.
type RestoredBranch struct {
	// Branch is the branch.
	Branch Branch `json:"branch"`
	// From is the branch whose past it was.
	From string `json:"from"`
	// Seq is the barrier that it began anew as.
	Seq uint64 `json:"seq"`
	// Kept is the branch that has the state before; nil if that was not asked for.
	Kept *Branch `json:"kept,omitempty"`
}

// DeletedBranch is a branch that was deleted and can come back.
type DeletedBranch struct {
	// ID is the branch's id.
	ID string `json:"id"`
	// Project is the project it belongs to.
	Project string `json:"project"`
	// Name is the name that it had.
	Name string `json:"name"`
	// Deleted is when it was deleted.
	Deleted time.Time `json:"deleted"`
}

// DeletedList is the answer to a list of deleted branches, the last deleted first.
type DeletedList struct {
	// Branches are the deleted branches; never null.
	Branches []DeletedBranch `json:"branches"`
}

// UndeleteBranch is the request to bring a deleted branch back.
type UndeleteBranch struct {
	// Name is the name to give it. Default: the one that it had.
	Name string `json:"name,omitempty"`
}

// ThrowawayBranch is the request to make a branch for one use. It is answered with one
// CreatedBranch on a line, and the branch lives for as long as the client does not hang
// up.
type ThrowawayBranch struct {
	// At is the point to begin as. Default: the last barrier.
	At string `json:"at,omitempty"`
}

// CheckPoint returns nil for a point, or none; otherwise an *Error with
// CodeInvalidRequest.
func CheckPoint(at string) error {
	if at == "" {
		return nil
	}
	if _, err := point.Parse(at, nil); err != nil {
		return Errorf(CodeInvalidRequest, "%v", err)
	}
	return nil
}
