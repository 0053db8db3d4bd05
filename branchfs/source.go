package branchfs

import (
	"context"
	"time"

	"github.com/bough-db/bough/blockdev"
)

// Source is what the file system shows: projects, and the branches in them. All
// methods may be called concurrently. An error that wraps fs.ErrNotExist means
// that there is no such thing; see the package doc for the other errors.
//
// Every path walk asks the source: answers should come from memory.
type Source interface {
	// Projects returns the names of all projects, in any order.
	Projects(ctx context.Context) ([]string, error)

	// Branches returns the names of the branches of a project, in any order.
	Branches(ctx context.Context, project string) ([]string, error)

	// Branch finds a branch by its name.
	Branch(ctx context.Context, project, branch string) (Branch, error)
}

// ProjectFinder is a Source that can tell whether a project exists without listing all.
// Without this power every path walk lists the projects.
type ProjectFinder interface {
	// Project returns nil if there is a project of that name.
	Project(ctx context.Context, project string) error
}

// Branch is one branch of a Source. All methods may be called concurrently. The
// file system keeps a Branch for as long as the kernel remembers its directory.
type Branch interface {
	// Info returns what stat(2) shows. A branch that was deleted still answers.
	Info() Info

	// Open returns the branch's device. The file system calls it once for any
	// number of opens of the same ID, and closes the device after the last
	// release. ctx ends when Open returns, so the device must not keep it.
	Open(ctx context.Context) (Disk, error)

	// Status returns the contents of status.json. The slice is not changed.
	Status(ctx context.Context) ([]byte, error)
}

// Past is a Branch whose past can be looked at: it has the directories at and snapshots.
type Past interface {
	// At finds a moment of the branch by the name below at, such as seq:42 or -10m.
	// The moment is read-only, and its ID says which it is, not how it was asked for.
	At(ctx context.Context, point string) (Branch, error)

	// Snapshots returns the names of the branch's snapshots, in any order.
	Snapshots(ctx context.Context) ([]string, error)

	// Snapshot finds a moment of the branch by the name of a snapshot. It is
	// read-only.
	Snapshot(ctx context.Context, name string) (Branch, error)
}

// Info describes a branch.
type Info struct {
	// ID is the branch's identity, which outlives a change of name and is never
	// reused. Two branches with the same ID share one open device.
	ID string
	// Size is the device's size in bytes.
	Size int64
	// Modified is shown as the time of the last change; the zero time is shown
	// as 1970.
	Modified time.Time
	// ReadOnly says that the device cannot be written: opening it for that, writing
	// and punching holes answer EROFS, and it is never flushed.
	ReadOnly bool
}

// Disk is an open branch: a device that can be closed. When it also implements
// blockdev.Trimmer or blockdev.Zeroer, holes can be punched and ranges zeroed in
// its file; else the kernel is told that the file cannot do it.
type Disk interface {
	blockdev.Device

	// Close makes all writes durable and lets the branch go. It is called once,
	// when no other call is running.
	Close(ctx context.Context) error
}
