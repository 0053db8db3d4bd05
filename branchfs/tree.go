package branchfs

import (
	"context"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// callCtx is a request's context: done when the caller was interrupted, or when
// the connection ended. It is only for requests that wait and change nothing.
func callCtx(cancel <-chan struct{}) context.Context { return &fuse.Context{Cancel: cancel} }

// Lookup implements fuse.RawFileSystem. Answers are not cached by the kernel
// (their time-out is zero), so that a branch that was created, renamed or deleted
// is seen at once.
func (f *fileSystem) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent, ok := f.nodes.get(h.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	ctx := callCtx(cancel)
	child, err := f.child(ctx, parent, name)
	if err != nil {
		return f.status(ctx, "lookup", parent.join(name), err)
	}
	if child == nil {
		return fuse.ENOENT
	}
	child = f.nodes.lookup(child)
	out.NodeId = child.nodeID
	size, modified := child.stat()
	child.attr(&out.Attr, size, modified)
	return fuse.OK
}

// child finds name in parent, or returns nil.
func (f *fileSystem) child(ctx context.Context, parent *node, name string) (*node, error) {
	n := &node{path: parent.join(name), branch: parent.branch}
	switch parent.kind {
	case kindRoot:
		// A name that a file system cannot hold is not asked for; nor are hidden
		// ones, which desktop programs and shells probe for.
		if strings.HasPrefix(name, ".") {
			return nil, nil
		}
		if exists, err := f.hasProject(ctx, name); err != nil || !exists {
			return nil, err
		}
		n.key = key{kind: kindProject, project: name}
	case kindProject:
		if strings.HasPrefix(name, ".") {
			return nil, nil
		}
		b, err := f.source.Branch(ctx, parent.project, name)
		if err != nil {
			return nil, err
		}
		n.key = key{kind: kindBranch, project: parent.project, id: b.Info().ID}
		n.branch = b
	case kindBranch:
		n.key = key{project: parent.project, id: parent.id}
		switch name {
		case diskName:
			n.kind = kindDisk
		case statusName:
			n.kind = kindStatus
		case atName, snapsName:
			if _, ok := parent.branch.(Past); !ok {
				return nil, nil
			}
			n.kind = kindAt
			if name == snapsName {
				n.kind = kindSnapshots
			}
		default:
			return nil, nil
		}
	case kindAt, kindSnapshots:
		return n, f.moment(ctx, parent, name, n)
	default:
		return nil, syscallError(syscall.ENOTDIR)
	}
	return n, nil
}

// moment makes n, a child of parent, what the branch was at a point or snapshot.
func (f *fileSystem) moment(ctx context.Context, parent *node, name string, n *node) error {
	find := parent.branch.(Past).At
	if parent.kind == kindSnapshots {
		find = parent.branch.(Past).Snapshot
	}
	if strings.HasPrefix(name, ".") {
		return syscallError(syscall.ENOENT)
	}
	b, err := find(ctx, name)
	if err != nil {
		return err
	}
	n.key = key{kind: kindBranch, project: parent.project, id: b.Info().ID}
	n.branch = b
	return nil
}

// hasProject reports whether the source has a project of that name.
func (f *fileSystem) hasProject(ctx context.Context, name string) (bool, error) {
	if finder, ok := f.source.(ProjectFinder); ok {
		err := finder.Project(ctx, name)
		return err == nil, err
	}
	names, err := f.source.Projects(ctx)
	return slices.Contains(names, name), err
}

// join returns the path of name in directory n.
func (n *node) join(name string) string {
	if n.kind == kindRoot {
		return "/" + name
	}
	return n.path + "/" + name
}

// stat returns a node's size and time of change. A status file's size is not
// known before it is made: see GetAttr.
func (n *node) stat() (size int64, modified uint64) {
	if n.branch == nil {
		return 0, 0
	}
	info := n.branch.Info()
	if !info.Modified.IsZero() {
		modified = uint64(max(info.Modified.Unix(), 0))
	}
	if n.kind == kindDisk {
		size = info.Size
	}
	return size, modified
}

// Forget implements fuse.RawFileSystem.
func (f *fileSystem) Forget(nodeID, lookups uint64) { f.nodes.forget(nodeID, lookups) }

// GetAttr implements fuse.RawFileSystem.
func (f *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := f.nodes.get(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	ctx := callCtx(cancel)
	size, modified := n.stat()
	switch n.kind {
	case kindDisk:
		size = max(size, f.disks.size(n.id)) // an open device may have grown
	case kindStatus:
		text, err := n.branch.Status(ctx)
		if err != nil {
			return f.status(ctx, "status", n.path, err)
		}
		size = int64(len(text))
	}
	n.attr(&out.Attr, size, modified)
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem. A device cannot be truncated or change
// hands; setting times is ignored, as touch(1) and cp(1) expect.
func (f *fileSystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := f.nodes.get(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	size, modified := n.stat()
	n.attr(&out.Attr, size, modified)
	if want, set := in.GetSize(); set && int64(want) != size {
		return fuse.EPERM
	}
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return fuse.EPERM
	}
	return fuse.OK
}

// listing is an open directory: the names as they were when it was opened.
type listing []fuse.DirEntry

// OpenDir implements fuse.RawFileSystem.
func (f *fileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := f.nodes.get(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	ctx := callCtx(cancel)
	var (
		files, dirs []string
		err         error
	)
	switch n.kind {
	case kindRoot:
		dirs, err = f.source.Projects(ctx)
	case kindProject:
		dirs, err = f.source.Branches(ctx, n.project)
	case kindBranch:
		files = []string{diskName, statusName}
		if _, ok := n.branch.(Past); ok {
			dirs = []string{atName, snapsName}
		}
	case kindAt: // as many as there are moments, and names for each
	case kindSnapshots:
		dirs, err = n.branch.(Past).Snapshots(ctx)
	default:
		return fuse.ENOTDIR
	}
	if err != nil {
		return f.status(ctx, "list", n.path, err)
	}
	l := make(listing, 0, len(files)+len(dirs)+2)
	for _, name := range dirs {
		l = append(l, fuse.DirEntry{Name: name, Mode: fuse.S_IFDIR})
	}
	for _, name := range files {
		l = append(l, fuse.DirEntry{Name: name, Mode: fuse.S_IFREG})
	}
	slices.SortFunc(l, func(x, y fuse.DirEntry) int { return strings.Compare(x.Name, y.Name) })
	l = slices.Insert(l, 0, fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR}, fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR})
	out.Fh = f.handles.add(l)
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem.
func (f *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	l, ok := f.handles.get(in.Fh).(listing)
	if !ok {
		return fuse.EBADF
	}
	for i := in.Offset; i < uint64(len(l)); i++ {
		if !out.AddDirEntry(l[i]) {
			break
		}
	}
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *fileSystem) ReleaseDir(in *fuse.ReleaseIn) { f.handles.remove(in.Fh) }

// FsyncDir implements fuse.RawFileSystem. It succeeds: Postgres panics when a
// directory cannot be synced, and the names here are as durable as the store.
func (f *fileSystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

// StatFs implements fuse.RawFileSystem. The block size matters: the kernel's loop
// driver takes it for the granularity of discards.
func (f *fileSystem) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: blockSize, Frsize: blockSize, NameLen: 255}
	return fuse.OK
}
