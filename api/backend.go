package api

import (
	"context"
	"net/http"
)

// Backend does the work behind a [Server]. Names that reach it are valid.
// Every method may be called concurrently, honours its context, and returns an
// *[Error] where the caller can do something about it; any other error is
// answered as CodeInternal with its text.
type Backend interface {
	Projects
	Branches
	Endpoints
	Moments
	Upkeep
	Daemon
}

// Projects is the part of a [Backend] about projects.
type Projects interface {
	// CreateProject makes a project and its branch main.
	CreateProject(ctx context.Context, req CreateProject) (CreatedProject, error)
	// ListProjects returns the projects that are not hidden, by name.
	ListProjects(ctx context.Context) ([]Project, error)
	// Project returns one project with its branches.
	Project(ctx context.Context, name string) (ProjectDetail, error)
	// SetProject changes settings of a project.
	SetProject(ctx context.Context, name string, req SetProject) (Project, error)
	// DeleteProject stops and deletes a project's branches, and the project.
	DeleteProject(ctx context.Context, name string) error
}

// Branches is the part of a [Backend] about branches.
type Branches interface {
	// CreateBranch makes a branch of req.From, as that is now.
	CreateBranch(ctx context.Context, project string, req CreateBranch) (CreatedBranch, error)
	// ListBranches returns a project's branches, or all when project is "".
	ListBranches(ctx context.Context, project string) ([]Branch, error)
	// Branch returns one branch.
	Branch(ctx context.Context, project, name string) (Branch, error)
	// SetBranch changes settings of a branch, which may be in use.
	SetBranch(ctx context.Context, project, name string, req SetBranch) (Branch, error)
	// RenameBranch gives a branch another name.
	RenameBranch(ctx context.Context, project, name, to string) (Branch, error)
	// DeleteBranch stops and deletes a branch; its children stay.
	DeleteBranch(ctx context.Context, project, name string) error
}

// Endpoints is the part of a [Backend] about using a branch on this host.
type Endpoints interface {
	// Start starts the branch's Postgres and returns when it accepts
	// connections; one that runs already is a success.
	Start(ctx context.Context, project, branch string, req StartBranch) (StartedBranch, error)
	// Suspend stops the branch's Postgres; one that is suspended is a success.
	Suspend(ctx context.Context, project, branch string) (Branch, error)
	// Connection says how to connect; it starts nothing.
	Connection(ctx context.Context, project, branch string) (Connection, error)
	// Attach attaches the branch as a block device and mounts it.
	Attach(ctx context.Context, project, branch string, req AttachBranch) (Attachment, error)
	// Detach undoes Attach.
	Detach(ctx context.Context, project, branch string) error
}

// Daemon is the part of a [Backend] about the process and its store.
type Daemon interface {
	// Version says what runs.
	Version() Version
	// Status says what it does.
	Status(ctx context.Context) (Status, error)
	// Metrics answers with what the daemon counts, in Prometheus' format.
	Metrics(w http.ResponseWriter, r *http.Request)
	// Verify checks what is stored and calls emit with progress and problems;
	// it stops when emit returns an error.
	Verify(ctx context.Context, scope VerifyScope, emit func(VerifyEvent) error) (VerifyResult, error)
}
