package postgres

import (
	"context"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
)

// Store is the catalogue of projects and branches: the part of cow.Store that
// endpoints need.
type Store interface {
	Projects
	Branches
}

// Projects are the projects of a Store.
type Projects interface {
	CreateProject(ctx context.Context, name string, o cow.ProjectOptions) (cow.ProjectInfo, cow.BranchInfo, error)
	Project(ctx context.Context, name string) (cow.ProjectInfo, error)
	UpdateProject(ctx context.Context, name string, change func(*cow.ProjectInfo) error) error
}

// Branches are the branches of a Store.
type Branches interface {
	CreateBranch(ctx context.Context, project, name string, o cow.BranchOptions) (cow.BranchInfo, error)
	Branch(ctx context.Context, project, name string) (cow.BranchInfo, error)
	Branches(ctx context.Context, project string) ([]cow.BranchInfo, error)
	UpdateBranch(ctx context.Context, id cow.BranchID, change func(*cow.BranchInfo) error) error
	DeleteBranch(ctx context.Context, project, name string) error
}

// Volumes turns branches into directories: the part of blockdev.Volumes that
// endpoints need.
type Volumes interface {
	Attach(ctx context.Context, o blockdev.AttachOptions) (blockdev.Attachment, error)
	Detach(ctx context.Context, id string) error
	Grow(ctx context.Context, id string) error
	Trim(ctx context.Context, id string) error
}

// HoldFunc opens a branch in this process, so that what stands against it is
// told in full rather than as the errno of a mount. The function that it
// returns is called when the branch has been detached; it returns when the
// branch is closed.
type HoldFunc func(ctx context.Context, id cow.BranchID) (release func(context.Context) error, err error)
