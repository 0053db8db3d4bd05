package cow

import (
	"sync/atomic"
	"time"
)

// TimingBounds are the upper bounds of the classes of a Timing: 32 µs, and twice as much
// each time, to 16.8 s.
var TimingBounds = func() (all [20]time.Duration) {
	for i := range all {
		all[i] = 32 * time.Microsecond << i
	}
	return all
}()

// Timing is how long something took, each time.
type Timing struct {
	// Count is how often, and Sum how long in all.
	Count uint64
	Sum   time.Duration
	// Classes counts by duration: class i those up to TimingBounds[i] that are beyond the
	// bound before. What took longer than the last one is in Count only.
	Classes [len(TimingBounds)]uint64
}

// Timings says how long the Store's branches took to answer, and uploads to be stored.
type Timings struct {
	// Read, Write and Flush are what was asked of branches; Upload is from the sealing of a
	// journal until its segment is stored.
	Read, Write, Flush, Upload Timing
}

// stopwatch counts durations; several goroutines at the same time.
type stopwatch struct {
	sum     atomic.Int64
	count   atomic.Uint64
	classes [len(TimingBounds)]atomic.Uint64
}

// since counts what has passed since began.
func (w *stopwatch) since(began time.Time) {
	d := time.Since(began)
	w.sum.Add(int64(d))
	w.count.Add(1)
	for i, bound := range TimingBounds {
		if d <= bound {
			w.classes[i].Add(1)
			return
		}
	}
}

func (w *stopwatch) timing() (t Timing) {
	t.Count, t.Sum = w.count.Load(), time.Duration(w.sum.Load())
	for i := range t.Classes {
		t.Classes[i] = w.classes[i].Load()
	}
	return t
}

// Timings returns what was counted since the Store was opened.
func (s *Store) Timings() Timings {
	return Timings{Read: s.took.read.timing(), Write: s.took.write.timing(), Flush: s.took.flush.timing(), Upload: s.took.upload.timing()}
}
