package branchfs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestNodeTableForgets(t *testing.T) {
	table := newNodeTable()
	look := func(id string) *node {
		return table.lookup(&node{key: key{kind: kindBranch, project: "p", id: id}})
	}
	a := look("a")
	if again := look("a"); again != a {
		t.Fatalf("a second lookup gave node %d, want the same, %d", again.nodeID, a.nodeID)
	}
	b := look("b")
	if a.nodeID == b.nodeID || a.ino() == b.ino() {
		t.Fatalf("nodes %d and %d have inode numbers %d and %d; want all different", a.nodeID, b.nodeID, a.ino(), b.ino())
	}
	for _, step := range []struct {
		name      string
		id, count uint64
		known     int
	}{
		{"one of two", a.nodeID, 1, 3},
		{"the last", a.nodeID, 1, 2},
		{"one too many", a.nodeID, 1, 2},
		{"more than there were", b.nodeID, 9, 1},
		{"the root", fuse.FUSE_ROOT_ID, 9, 1},
	} {
		table.forget(step.id, step.count)
		if n := len(table.byID); n != step.known || len(table.byKey) != n {
			t.Fatalf("after forgetting %s: %d nodes by id, %d by key; want %d", step.name, n, len(table.byKey), step.known)
		}
	}
	if again := look("a"); again.nodeID == a.nodeID {
		t.Fatal("a forgotten node's id was used again")
	}
}
