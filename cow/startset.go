package cow

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/bough-db/bough/objstore"
)

// A start set object is a hint: which blocks the last start of a branch read.
//
//	offset size  field            (little endian)
//	     0    8  magic "BOUGHSTA"
//	     8    2  version, 1
//	    10    2  flags: 1 if it goes on into the first use
//	    12    4  group count
//	    16    …  groups
//	   n-4    4  CRC32C of the object's key and everything before it
//
// A group is 16 blocks, the first of them a multiple of that: uvarint groups
// skipped since the one before (the first: since none), and 2 bytes, a bit for
// each block that was read. Without any, the tree's pages on the way there are
// wanted, and no block.
//
// The object is put without a condition, and whatever is wrong with it means that
// there is none.
const (
	startMagic      = "BOUGHSTA"
	startVersion    = 1
	startHeader     = 16
	startUsed       = 1 // flag
	startGroupBits  = 4
	startGroupSize  = 1 << startGroupBits
	startGroupsMax  = 4096
	startBytesMax   = startHeader + startGroupsMax*(binary.MaxVarintLen32+2) + 4
	startGroupsEnd  = MaxBlocks >> startGroupBits
	leafGroupsShift = leafBits - startGroupBits // groups of one leaf, as a power of two
)

// startSet is the blocks that a start reads. It has blocks and not frames, because
// every stop writes some of them anew: these have another address each time, and
// the old one is what the next start does not want. So it also serves a child.
type startSet struct {
	groups map[uint32]uint16 // by first block >> startGroupBits
	used   bool              // it goes on into the first use of what was started
}

func startKey(id BranchID) string { return branchPrefix + string(id) + "/start" }

// encodeStart returns the object under the key.
func encodeStart(key string, set *startSet) []byte {
	buf := append(make([]byte, 0, startHeader+len(set.groups)*5+4), startMagic...)
	buf = binary.LittleEndian.AppendUint16(buf, startVersion)
	var flags uint16
	if set.used {
		flags |= startUsed
	}
	buf = binary.LittleEndian.AppendUint16(buf, flags)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(set.groups)))
	next := uint32(0)
	for _, g := range slices.Sorted(maps.Keys(set.groups)) {
		buf = binary.AppendUvarint(buf, uint64(g-next))
		buf = binary.LittleEndian.AppendUint16(buf, set.groups[g])
		next = g + 1
	}
	return binary.LittleEndian.AppendUint32(buf, crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, buf))
}

// decodeStart reads the object under the key.
func decodeStart(key string, buf []byte) (*startSet, error) {
	if len(buf) < startHeader+4 || len(buf) > startBytesMax || string(buf[:8]) != startMagic {
		return nil, fmt.Errorf("start set of %d bytes: %w", len(buf), ErrCorrupt)
	}
	body, sum := buf[:len(buf)-4], binary.LittleEndian.Uint32(buf[len(buf)-4:])
	if crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, body) != sum {
		return nil, fmt.Errorf("start set checksum: %w", ErrCorrupt)
	}
	version, flags := binary.LittleEndian.Uint16(body[8:]), binary.LittleEndian.Uint16(body[10:])
	if version != startVersion || flags&^startUsed != 0 {
		return nil, fmt.Errorf("start set version %d flags %#x: %w", version, flags, ErrNewerFormat)
	}
	count := binary.LittleEndian.Uint32(body[12:])
	if count > startGroupsMax {
		return nil, fmt.Errorf("start set of %d groups: %w", count, ErrCorrupt)
	}
	set := &startSet{groups: make(map[uint32]uint16, count), used: flags&startUsed != 0}
	d := &decoder{buf: body[startHeader:]}
	next := uint64(0)
	for range count {
		skip := d.uvarint()
		mask := d.bytes(2)
		if d.err != nil || skip >= startGroupsEnd || next+skip >= startGroupsEnd {
			d.fail()
			break
		}
		set.groups[uint32(next+skip)] = binary.LittleEndian.Uint16(mask)
		next += skip + 1
	}
	if d.err != nil || len(d.buf) > 0 {
		return nil, fmt.Errorf("start set groups: %w", ErrCorrupt)
	}
	return set, nil
}

// readStart returns the start set of a branch, or nil if there is none to be had.
func (s *Store) readStart(ctx context.Context, id BranchID) *startSet {
	key := startKey(id)
	buf := make([]byte, startBytesMax+1)
	n, _, err := s.objects.ReadAt(ctx, key, buf, 0)
	var set *startSet
	if err == nil {
		set, err = decodeStart(key, buf[:n])
	}
	if err != nil {
		if !isNotExist(err) {
			s.log.Debug("start set is not used", "key", key, "err", err)
		}
		return nil
	}
	return set
}

// startAncestors is how many ancestors of a branch without a start set are asked
// for theirs.
const startAncestors = 3

// inheritedStart returns the start set of the nearest ancestor that has one, and
// which that is; nil if there is none. lineage ends with the branch itself.
func (s *Store) inheritedStart(ctx context.Context, lineage []BranchID) (*startSet, BranchID) {
	above := lineage[:len(lineage)-1]
	above = above[max(0, len(above)-startAncestors):]
	sets := make([]*startSet, len(above))
	var g errgroup.Group
	for i, id := range above {
		g.Go(func() error {
			sets[i] = s.readStart(ctx, id)
			return nil
		})
	}
	_ = g.Wait() // nothing in it fails
	for i, set := range slices.Backward(sets) {
		if set != nil {
			return set, above[i]
		}
	}
	return nil, ""
}

// and adds the groups of another set, as far as there is room.
func (set *startSet) and(other *startSet) *startSet {
	if other != nil {
		for g, mask := range other.groups {
			if _, ok := set.groups[g]; ok || len(set.groups) < startGroupsMax {
				set.groups[g] |= mask
			}
		}
	}
	return set
}

// writeStart stores the start set of a branch.
func (s *Store) writeStart(ctx context.Context, id BranchID, set *startSet) {
	key := startKey(id)
	if _, err := s.objects.Put(ctx, key, encodeStart(key, set), objstore.Condition{}); err != nil {
		s.log.Debug("start set not stored", "key", key, "err", err)
	}
}
