package cache

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of every checksum in the file (CRC32C).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	pageBytes     = 4096 // alignment of everything that is written directly
	headerBytes   = pageBytes
	headerMagic   = "boughFRM"
	formatVersion = 1

	regionBytesMin = 512 << 10
	regionBytesMax = 4 << 20
	regionsMin     = 16

	// A region of n pages has room for n slots in its table, and closes when either
	// its table or its data is full.
	tableEntryBytes = 32
)

// fileHeader is the first page of the cache file.
type fileHeader struct {
	regionBytes uint32
	salt        uint64 // of this file: goes into every hash and table checksum
}

func encodeHeader(h fileHeader) []byte {
	page := make([]byte, headerBytes)
	copy(page, headerMagic)
	binary.LittleEndian.PutUint32(page[8:], formatVersion)
	binary.LittleEndian.PutUint32(page[12:], h.regionBytes)
	binary.LittleEndian.PutUint64(page[16:], h.salt)
	binary.LittleEndian.PutUint32(page[24:], crc32.Checksum(page[:24], castagnoli))
	return page
}

// decodeHeader returns the header in page, and whether it is intact, of this
// version and within limits. Anything else is an empty cache.
func decodeHeader(page []byte) (fileHeader, bool) {
	if len(page) < 28 || string(page[:8]) != headerMagic ||
		binary.LittleEndian.Uint32(page[8:]) != formatVersion ||
		binary.LittleEndian.Uint32(page[24:]) != crc32.Checksum(page[:24], castagnoli) {
		return fileHeader{}, false
	}
	h := fileHeader{
		regionBytes: binary.LittleEndian.Uint32(page[12:]),
		salt:        binary.LittleEndian.Uint64(page[16:]),
	}
	return h, validRegionBytes(int64(h.regionBytes))
}

func validRegionBytes(n int64) bool {
	return n >= regionBytesMin && n <= regionBytesMax && n&(n-1) == 0
}

// tableEntry describes one slot of a region.
type tableEntry struct {
	hash   uint64
	use    uint64 // which use of the region the slot belongs to; never 0
	offset uint32 // of the slot, in bytes from the start of the region
	length uint32 // of the slot, in bytes
	main   bool   // the region belongs to the main queue
}

// encodeTableEntry fills p, which is tableEntryBytes long.
func encodeTableEntry(p []byte, e tableEntry, salt uint64) {
	binary.LittleEndian.PutUint64(p[0:], e.hash)
	binary.LittleEndian.PutUint64(p[8:], e.use)
	binary.LittleEndian.PutUint32(p[16:], e.offset)
	binary.LittleEndian.PutUint32(p[20:], e.length)
	flags := uint32(0)
	if e.main {
		flags = 1
	}
	binary.LittleEndian.PutUint32(p[24:], flags)
	binary.LittleEndian.PutUint32(p[28:], tableChecksum(p, salt))
}

// decodeTableEntry returns the entry in p, and whether it is intact, was written
// by this cache file, and lies inside a region of the given size.
func decodeTableEntry(p []byte, regionBytes int, salt uint64) (tableEntry, bool) {
	if len(p) < tableEntryBytes || binary.LittleEndian.Uint32(p[28:]) != tableChecksum(p, salt) {
		return tableEntry{}, false
	}
	e := tableEntry{
		hash:   binary.LittleEndian.Uint64(p[0:]),
		use:    binary.LittleEndian.Uint64(p[8:]),
		offset: binary.LittleEndian.Uint32(p[16:]),
		length: binary.LittleEndian.Uint32(p[20:]),
		main:   binary.LittleEndian.Uint32(p[24:]) == 1,
	}
	ok := e.use != 0 &&
		int64(e.offset) >= int64(tableBytes(regionBytes)) &&
		int64(e.offset)+int64(e.length) <= int64(regionBytes) &&
		e.offset%slotUnit == 0 && e.length%slotUnit == 0 &&
		e.length > 0 && e.length <= SlotBytesMax
	return e, ok
}

// tableChecksum covers the entry and the salt: an entry left behind by an earlier
// cache file at the same place on disk is not one of ours.
func tableChecksum(p []byte, salt uint64) uint32 {
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, p[:28])
}

// tableSlots is how many slots a region of the given size can list.
func tableSlots(regionBytes int) int { return regionBytes / pageBytes }

// tableBytes is the size of a region's table, a whole number of pages.
func tableBytes(regionBytes int) int {
	return (tableSlots(regionBytes)*tableEntryBytes + pageBytes - 1) / pageBytes * pageBytes
}

// regionBytesFor chooses the region size for a cache file of the given size:
// a 256th of it, within limits, so that eviction is fine-grained in a small cache
// and the number of regions is small in a large one.
func regionBytesFor(bytes int64) int {
	n := int64(regionBytesMin)
	for n < regionBytesMax && n*2 <= bytes/256 {
		n *= 2
	}
	return int(n)
}
