package postgres

import (
	"context"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/cow/point"
)

// Store is the catalogue of projects and branches: the part of cow.Store that
// endpoints need. Its methods are described there.
type Store interface {
	Projects
	Branches
	Moments
}

// Moments is the past of the branches of a Store.
type Moments interface {
	// Resolve returns the barrier that a point names.
	Resolve(ctx context.Context, id cow.BranchID, p point.Point) (cow.Barrier, error)
	// History returns barriers of a branch.
	History(ctx context.Context, id cow.BranchID, q cow.HistoryQuery) (cow.HistoryPage, error)
}

// Projects are the projects of a Store.
type Projects interface {
	// CreateProject makes a project and its branch main.
	CreateProject(ctx context.Context, name string, o cow.ProjectOptions) (cow.ProjectInfo, cow.BranchInfo, error)
	// Project returns a project; an unknown one is cow.ErrNotFound.
	Project(ctx context.Context, name string) (cow.ProjectInfo, error)
	// UpdateProject changes a project's settings; change may be called again.
	UpdateProject(ctx context.Context, name string, change func(*cow.ProjectInfo) error) error
}

// Branches are the branches of a Store.
type Branches interface {
	// CreateBranch makes a branch that begins as the last barrier of o.From.
	CreateBranch(ctx context.Context, project, name string, o cow.BranchOptions) (cow.BranchInfo, error)
	// RestoreBranch makes a branch begin anew at a point.
	RestoreBranch(ctx context.Context, id cow.BranchID, o cow.RestoreOptions) (cow.BranchInfo, error)
	// Branch returns a branch; an unknown one is cow.ErrNotFound.
	Branch(ctx context.Context, project, name string) (cow.BranchInfo, error)
	// Branches returns the branches of a project.
	Branches(ctx context.Context, project string) ([]cow.BranchInfo, error)
	// UpdateBranch changes a branch's settings; change may be called again.
	UpdateBranch(ctx context.Context, id cow.BranchID, change func(*cow.BranchInfo) error) error
	// DeleteBranch deletes a branch that is not in use.
	DeleteBranch(ctx context.Context, project, name string) error
}

// Volumes turns branches into directories: the part of blockdev.Volumes that
// endpoints need.
type Volumes interface {
	// Attach attaches a branch and mounts its file system, which it makes first
	// if asked to.
	Attach(ctx context.Context, o blockdev.AttachOptions) (blockdev.Attachment, error)
	// Detach unmounts and detaches; all that was written is on the branch then.
	Detach(ctx context.Context, id string) error
	// Grow grows the mounted file system to the size of the device.
	Grow(ctx context.Context, id string) error
	// Trim gives back what the mounted file system does not use.
	Trim(ctx context.Context, id string) error
}

// HoldFunc opens a branch in this process, so that what stands against it is
// told in full rather than as the errno of a mount. The function that it
// returns is called when the branch has been detached; it returns when the
// branch is closed.
type HoldFunc func(ctx context.Context, id cow.BranchID) (release func(context.Context) error, err error)
