package cache

// settle waits until the keeper has nothing left to do.
func (f *Frames) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signal()
	for len(f.pending) > 0 || f.working || f.mustEvict() {
		f.idle.Wait()
	}
}

// flush writes what is in memory, and waits for it.
func (f *Frames) flush() {
	f.mu.Lock()
	for q := range queues {
		f.seal(q)
	}
	f.mu.Unlock()
	f.settle()
}
