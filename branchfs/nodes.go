package branchfs

import (
	"hash/fnv"
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

type nodeKind uint8

const (
	kindRoot nodeKind = iota
	kindProject
	kindBranch
	kindDisk
	kindStatus
	kindAt
	kindSnapshots
)

const (
	diskName   = "disk"
	statusName = "status.json"
	atName     = "at"
	snapsName  = "snapshots"
)

// key identifies a node. Branches count by their id, not their name, so that a
// branch which takes a deleted branch's name is another file.
type key struct {
	kind    nodeKind
	project string
	id      string
}

// node is a file or directory that the kernel knows.
type node struct {
	key
	nodeID uint64
	branch Branch // nil for root and projects
	path   string // as first looked up; for logs

	lookups uint64 // guarded by nodeTable.mu
}

// nodeTable holds the nodes that the kernel knows: each is added by a lookup and
// goes when the kernel forgets as many lookups as there were.
type nodeTable struct {
	mu    sync.RWMutex
	next  uint64
	byID  map[uint64]*node
	byKey map[key]*node
}

func newNodeTable() *nodeTable {
	root := &node{nodeID: fuse.FUSE_ROOT_ID, path: "/"}
	return &nodeTable{
		next:  fuse.FUSE_ROOT_ID + 1,
		byID:  map[uint64]*node{root.nodeID: root},
		byKey: map[key]*node{root.key: root},
	}
}

// get returns the node with the given id. The kernel only uses ids that it was
// given and has not forgotten.
func (t *nodeTable) get(id uint64) (*node, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, ok := t.byID[id]
	return n, ok
}

// lookup returns the node for n's key, adding n if there is none, and counts one
// lookup.
func (t *nodeTable) lookup(n *node) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.byKey[n.key]; ok {
		n = known
	} else {
		n.nodeID = t.next
		t.next++
		t.byID[n.nodeID] = n
		t.byKey[n.key] = n
	}
	n.lookups++
	return n
}

// forget takes back count lookups of a node.
func (t *nodeTable) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.byID[id]
	if !ok || n.kind == kindRoot {
		return
	}
	if n.lookups > count {
		n.lookups -= count
		return
	}
	delete(t.byID, id)
	delete(t.byKey, n.key)
}

// ino is the inode number that stat(2) shows: the same for the same thing after
// the kernel forgot it and after a restart.
func (k key) ino() uint64 {
	if k.kind == kindRoot {
		return fuse.FUSE_ROOT_ID
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(k.kind)})
	_, _ = io.WriteString(h, k.project)
	_, _ = h.Write([]byte{0})
	_, _ = io.WriteString(h, k.id)
	return h.Sum64() | 2 // never 0, nor the root's
}

// readOnly reports whether n is a device that cannot be written.
func (n *node) readOnly() bool { return n.kind == kindDisk && n.branch.Info().ReadOnly }

// attr fills in what stat(2) shows of n. size is that of a regular file.
func (n *node) attr(out *fuse.Attr, size int64, modified uint64) {
	*out = fuse.Attr{
		Ino:     n.ino(),
		Nlink:   1,
		Blksize: blockSize,
		Atime:   modified,
		Mtime:   modified,
		Ctime:   modified,
	}
	switch n.kind {
	case kindDisk:
		// The device's owner alone may read the bytes of a database. Blocks says
		// that nothing is a hole: a copying program skips holes.
		out.Mode = fuse.S_IFREG | 0o600
		if n.readOnly() {
			out.Mode = fuse.S_IFREG | 0o400
		}
		out.Size = uint64(size)
		out.Blocks = uint64(size+511) / 512
	case kindStatus:
		out.Mode = fuse.S_IFREG | 0o444
		out.Size = uint64(size)
		out.Blocks = uint64(size+511) / 512
	default:
		out.Mode = fuse.S_IFDIR | 0o555
		out.Nlink = 2
	}
}
