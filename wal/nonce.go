package wal

// Nonce returns the random number that was drawn when the file was taken into
// use: it tells this journal from every other attempt to write the same segment.
func (j *Journal) Nonce() [16]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.header.nonce
}
