package cache

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// checkMemory verifies that every entry is in its queue and its shard, that the bytes
// add up, and that they stay within the bound (invariant I9).
func checkMemory(t testing.TB, m *Memory) {
	t.Helper()
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n := 0
		for q := range queues {
			bytes := int64(0)
			for e := s.queue[q].root.next; e != &s.queue[q].root; e = e.next {
				n++
				bytes += e.cost()
				if s.entries[e.hash] != e || e.queue != q || e.next.prev != e {
					t.Errorf("shard %d: %v is out of place", i, e.key)
				}
			}
			if bytes != s.queue[q].bytes {
				t.Errorf("shard %d: queue %d holds %d bytes and counts %d", i, q, bytes, s.queue[q].bytes)
			}
		}
		if n != len(s.entries) {
			t.Errorf("shard %d: %d entries queued, %d mapped", i, n, len(s.entries))
		}
		if s.bytes() > s.bytesMax {
			t.Errorf("shard %d: %d bytes, more than %d", i, s.bytes(), s.bytesMax)
		}
		s.mu.Unlock()
	}
}

func TestMemoryModel(t *testing.T) {
	rnd := newRand(t)
	m := NewMemory(3 << 20)
	hits, steps := 0, 30_000
	if testing.Short() {
		steps /= 5
	}
	for step := range steps {
		key := testKey(rnd.IntN(rnd.IntN(600) + 1))
		switch rnd.IntN(20) {
		case 0:
			m.Delete(key)
			if _, ok := m.Get(key); ok {
				t.Fatalf("step %d: get %v after delete: hit", step, key)
			}
		case 1, 2, 3, 4, 5, 6:
			m.Put(key, frameOf(key))
			if got, ok := m.Get(key); !ok || string(got) != string(frameOf(key)) {
				t.Fatalf("step %d: get %v after put: %v", step, key, ok)
			}
		default:
			got, ok := m.Get(key)
			if ok && string(got) != string(frameOf(key)) {
				t.Fatalf("step %d: get %v: wrong bytes", step, key)
			}
			if ok {
				hits++
			}
		}
		if step%100 == 0 {
			checkMemory(t, m)
		}
	}
	checkMemory(t, m)
	if s := m.Stats(); hits < 500 || s.Evicted == 0 || s.Bytes > 3<<20 {
		t.Errorf("%d hits, %+v", hits, s)
	}
}

func TestMemoryKeepsWhatIsThere(t *testing.T) {
	m := NewMemory(1 << 20)
	first := []byte("first")
	m.Put(testKey(1), first)
	m.Put(testKey(1), []byte("first"))
	if got, _ := m.Get(testKey(1)); &got[0] != &first[0] {
		t.Error("a second put replaced the frame")
	}
	m.Put(testKey(2), make([]byte, 1<<20))
	if _, ok := m.Get(testKey(2)); ok {
		t.Error("a frame beyond the bound was stored")
	}
	checkMemory(t, m)
}

func TestMemoryNil(t *testing.T) {
	m := NewMemory(0)
	m.Put(testKey(1), []byte("x"))
	m.Delete(testKey(1))
	if _, ok := m.Get(testKey(1)); ok || m.Stats() != (MemoryStats{}) {
		t.Error("a cache of no bytes holds something")
	}
}

// TestI9MemoryBounded is invariant I9 against the heap itself: what the cache takes,
// all told, is what it says.
func TestI9MemoryBounded(t *testing.T) {
	for _, frame := range []int{64 << 10, 4 << 10, 256} {
		const bound = 32 << 20
		before := heap()
		m := NewMemory(bound)
		for i := range 3 * bound / frame {
			m.Put(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(i)}, make([]byte, frame))
			if i%10_000 == 0 {
				checkMemory(t, m)
			}
		}
		checkMemory(t, m)
		used, st := heap()-before, m.Stats()
		t.Logf("frames of %d: %d entries, %d bytes accounted for, %d on the heap", frame, st.Entries, st.Bytes, used)
		if used > bound*102/100 {
			t.Errorf("frames of %d: %d bytes on the heap, more than %d", frame, used, bound)
		}
		runtime.KeepAlive(m)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}

func TestMemoryConcurrent(t *testing.T) {
	s := seed(t)
	m := NewMemory(20 << 20)
	frames := make([][]byte, 900)
	for i := range frames {
		frames[i] = frameOf(testKey(i))
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(s, uint64(w)))
			for range 5000 {
				n := rnd.IntN(len(frames))
				key := testKey(n)
				switch rnd.IntN(10) {
				case 0:
					m.Delete(key)
				case 1, 2, 3:
					m.Put(key, frames[n])
				default:
					if got, ok := m.Get(key); ok && len(got) > 0 && &got[0] != &frames[n][0] {
						t.Errorf("get %v: another frame", key)
					}
				}
			}
		})
	}
	wg.Wait()
	checkMemory(t, m)
}
