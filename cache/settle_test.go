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
