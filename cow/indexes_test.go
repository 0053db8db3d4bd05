package cow

import "testing"

type fakeIndex int

func (f fakeIndex) bytes() int { return int(f) }

// TestIndexCache: many small indexes do not drive out a large one, nor the other way
// round, and neither kind grows without bound. I9.
func TestIndexCache(t *testing.T) {
	const n = 4
	c, err := newIndexCache[int, fakeIndex](n)
	if err != nil {
		t.Fatal(err)
	}
	c.Add(0, indexSmallBytes+1)
	for i := 1; i <= 100; i++ {
		c.Add(i, indexSmallBytes)
	}
	if _, ok := c.Get(0); !ok {
		t.Error("small indexes drove out a large one")
	}
	if got, want := len(c.Keys()), 1+n*indexSmallFactor; got != want {
		t.Errorf("%d indexes are kept, want %d", got, want)
	}
	for i := 200; i < 300; i++ {
		c.Add(i, indexSmallBytes+1)
	}
	if got, want := len(c.Keys()), n+n*indexSmallFactor; got != want {
		t.Errorf("%d indexes are kept, want %d", got, want)
	}
	if _, ok := c.Get(100); !ok {
		t.Error("large indexes drove out a small one")
	}
	c.Remove(100)
	c.Remove(299)
	if _, ok := c.Get(100); ok {
		t.Error("an index is there after Remove")
	}
	if _, ok := c.Get(299); ok {
		t.Error("a large index is there after Remove")
	}
}
