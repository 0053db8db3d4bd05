package objstore

import (
	"fmt"
	"hash/crc32"
	"io"
)

// Tagger computes the tag that the stores of this repository give to contents:
// the size, the CRC-32C and the CRC-32 (IEEE) of the bytes. The two checksums
// together are one of 64 bits: any change within 64 consecutive bits changes
// them, and of other changes one in 2^64 does not. They guard against accidents,
// not against an adversary; a writer that replaces objects puts a nonce into them
// anyway. The zero value is ready to use.
type Tagger struct {
	size             int64
	castagnoli, ieee uint32
}

var _ io.Writer = (*Tagger)(nil)

// castagnoli is a constant table: it is never written to.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write adds p to the contents. It never fails and does not retain p.
func (t *Tagger) Write(p []byte) (int, error) {
	t.size += int64(len(p))
	t.castagnoli = crc32.Update(t.castagnoli, castagnoli, p)
	t.ieee = crc32.Update(t.ieee, crc32.IEEETable, p)
	return len(p), nil
}

// Tag returns the tag of the contents written so far: 16 hexadecimal digits, a
// dash and the size in decimal.
func (t *Tagger) Tag() string {
	return fmt.Sprintf("%08x%08x-%d", t.castagnoli, t.ieee, t.size)
}

// ContentTag returns the tag of contents p. See [Tagger].
func ContentTag(p []byte) string {
	var t Tagger
	_, _ = t.Write(p)
	return t.Tag()
}
