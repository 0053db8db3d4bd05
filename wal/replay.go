package wal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/vfs"
)

// scanBlocks is the number of blocks that recovery reads at once: 1 MiB.
const scanBlocks = 256

// inspectBlocks is the number of blocks that most files are judged by: the header and
// the first record's. They are read alone.
const inspectBlocks = 2

// scanner reads a file block by block, many at a time.
type scanner struct {
	file  vfs.File
	slots Slot   // in the file
	buf   []byte // aligned; nil as long as nothing was read
	first Slot   // that buf holds
	n     Slot   // blocks that buf holds
}

func newScanner(file vfs.File, slots Slot) *scanner {
	return &scanner{file: file, slots: slots}
}

// reset turns to another file.
func (s *scanner) reset(file vfs.File, slots Slot) {
	s.file, s.slots, s.first, s.n = file, slots, 0, 0
}

// block returns the contents of a slot, valid until the next call.
func (s *scanner) block(slot Slot) ([]byte, error) {
	if slot < s.first || slot >= s.first+s.n {
		want := scanBlocks
		if slot < inspectBlocks {
			want = inspectBlocks
		}
		if len(s.buf) < want*BlockSize {
			s.buf = alignedBytes(want * BlockSize)
		}
		n := min(Slot(want), s.slots-slot)
		s.n = 0
		if _, err := s.file.ReadAt(s.buf[:int(n)*BlockSize], int64(slot)*BlockSize); err != nil {
			return nil, fmt.Errorf("read slot %d: %w", slot, err)
		}
		s.first, s.n = slot, n
	}
	off := int(slot-s.first) * BlockSize
	return s.buf[off : off+BlockSize], nil
}

// errTail ends a replay: what follows is not a record of this journal, or not whole.
var errTail = errors.New("end of journal")

// replay fills the journal's index from the file: whole batches, in order, until
// the first record that is not what has to come next. Then it decides what that
// is. A writer begins a batch only when the one before it is durable. So if any
// intact record of a later batch lies further on, the record was durable once
// and is damaged now: ErrCorrupt. If none does, it is the torn tail of a batch
// that nobody was told about, and the end of the log.
func (j *Journal) replay(s *scanner) error {
	j.openSeq = j.header.FirstSeq
	slot, at := Slot(firstRecordSlot), Slot(firstRecordSlot)
	var err error
	for {
		slot, err = j.replayRecord(s, slot)
		if err != nil {
			break
		}
		at = slot
	}
	open := j.openSeq
	j.spilled = 0
	j.next.Store(uint32(j.end))
	if !errors.Is(err, errTail) {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	later, serr := laterRecord(s, j.header.nonce, at, open)
	if serr != nil {
		return fmt.Errorf("journal %s: %w", j.path, serr)
	}
	if s.slots < j.header.slots {
		return fmt.Errorf("journal %s: %d of %d slots are there: %w", j.path, s.slots, j.header.slots, ErrCorrupt)
	}
	if later != 0 {
		return fmt.Errorf("journal %s: slot %d does not continue batch %d (%w), but a later batch is at slot %d: %w",
			j.path, at, open, err, later, ErrCorrupt)
	}
	return nil
}

// replayRecord checks the record at slot, enters it into the index and returns
// the slot after it. It wraps errTail when the record is not the next one.
func (j *Journal) replayRecord(s *scanner, slot Slot) (Slot, error) {
	if slot >= s.slots {
		return slot, fmt.Errorf("file is full: %w", errTail)
	}
	b, err := s.block(slot)
	if err != nil {
		return slot, err
	}
	if !isRecord(b, j.header.nonce, slot) {
		return slot, fmt.Errorf("no record: %w", errTail)
	}
	h := decodeRecord(b)
	if h.version != formatVersion || h.flags&^flagCommit != 0 {
		return slot, fmt.Errorf("record of version %d with flags %#x at slot %d: %w", h.version, h.flags, slot, ErrVersion)
	}
	if h.seq != j.openSeq || h.index != j.spilled {
		return slot, fmt.Errorf("record %d of batch %d: %w", h.index, h.seq, errTail)
	}
	if uint64(slot)+uint64(h.blocks) >= uint64(s.slots) {
		return slot, fmt.Errorf("record of %d blocks exceeds the file: %w", h.blocks, errTail)
	}
	entries, err := appendEntries(j.entries, b, &h)
	if err != nil {
		return slot, fmt.Errorf("%w: %w", err, errTail)
	}
	j.sums[slot] = recordBlockSum
	for i := slot + 1; i < slot+h.size(); i++ {
		if b, err = s.block(i); err != nil {
			return slot, err
		}
		j.sums[i] = sum(b)
	}
	var got uint32
	got, j.sumBuf = sumOfSums(j.sums[slot+1:slot+h.size()], j.sumBuf)
	if got != h.dataSum {
		return slot, fmt.Errorf("checksum of the data does not match: %w", errTail)
	}
	j.entries = entries
	j.spilled++
	slot += h.size()
	if h.flags&flagCommit != 0 {
		j.commit(Meta{Seq: h.seq, Time: time.Unix(0, h.time), LSN: h.lsn, Line: h.line}, slot)
	}
	return slot, nil
}

// laterRecord returns the slot of the first intact record at or after from whose
// batch comes after seq, or 0.
func laterRecord(s *scanner, n nonce, from Slot, seq Seq) (Slot, error) {
	for slot := from; slot < s.slots; slot++ {
		b, err := s.block(slot)
		if err != nil {
			return 0, err
		}
		if isRecord(b, n, slot) && decodeRecord(b).seq > seq {
			return slot, nil
		}
	}
	return 0, nil
}

// inspect judges a file by its first blocks. A file whose header is free, but
// which holds several batches of a life that was never marked as ended, has lost
// its header: the first of those batches was durable, and the header was written
// with it.
func inspect(s *scanner) (fileHeader, fileState, error) {
	b, err := s.block(0)
	if err != nil {
		return fileHeader{}, fileCorrupt, err
	}
	h, state := decodeHeader(b)
	if state != fileFree || s.slots < 2 {
		return h, state, nil
	}
	ended := endedLives(b)
	if b, err = s.block(firstRecordSlot); err != nil {
		return h, fileCorrupt, err
	}
	first := decodeRecord(b)
	if slices.Contains(ended[:], first.nonce) || !isRecord(b, first.nonce, firstRecordSlot) {
		return h, fileFree, nil
	}
	later, err := laterRecord(s, first.nonce, firstRecordSlot+1, first.seq)
	if err != nil || later != 0 {
		return h, fileCorrupt, err
	}
	return h, fileFree, nil
}

// alignedBytes returns n bytes at an address that suits direct I/O.
func alignedBytes(n int) []byte {
	b := make([]byte, n+vfs.Align)
	off := 0
	for !aligned(b[off:]) {
		off++
	}
	return b[off : off+n : off+n]
}
