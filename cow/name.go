package cow

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/bough-db/bough/wal"
)

// BranchID names a branch for ever. It matches br-[a-z]+-[a-z]+-[a-z0-9]{8} and
// is never used again.
type BranchID string

// NameMax is the greatest length of a project's or a branch's name, in bytes.
const NameMax = 63

// CheckName returns nil for a name that a project or a branch may have: 1 to 63
// of a-z, 0-9, dot, underscore and hyphen, the first a letter or a digit, no
// two dots in a row and none at the end. Otherwise it says what is wrong, and
// the error wraps ErrInvalidName.
func CheckName(name string) error {
	bad := func(why string) error {
		shown := name
		if len(shown) > NameMax {
			shown = shown[:NameMax] + "…"
		}
		return fmt.Errorf("%w %q: %s", ErrInvalidName, shown, why)
	}
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > NameMax:
		return bad(fmt.Sprintf("it has %d bytes, at most %d are allowed", len(name), NameMax))
	case strings.Contains(name, "..") || strings.HasSuffix(name, "."):
		return bad("it must not contain two dots in a row or end with one")
	}
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if i == 0 && !letter {
			return bad("it must begin with a lower-case letter or a digit")
		}
		if !letter && c != '.' && c != '_' && c != '-' {
			return bad("only lower-case letters, digits, '.', '_' and '-' are allowed")
		}
	}
	return nil
}

// checkBranchID tells whether id has the shape of one: ids come from records
// and directory names, and become parts of keys.
func checkBranchID(id BranchID) error {
	p := strings.Split(string(id), "-")
	ok := len(p) == 4 && p[0] == "br" && len(id) <= 60
	for _, w := range p {
		ok = ok && w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
	}
	if !ok {
		return fmt.Errorf("branch id %q: %w", id, ErrCorrupt)
	}
	return nil
}

// Words of branch ids, so that a person can tell them apart at a glance. Both
// lists have a power of two of them.
var idWords = [2][32]string{{
	"amber", "ancient", "bitter", "bold", "broad", "calm", "clear", "crisp",
	"damp", "dark", "early", "fresh", "gentle", "green", "hidden", "icy",
	"late", "lively", "long", "misty", "noble", "old", "pale", "plain",
	"quiet", "rapid", "silent", "small", "steep", "warm", "wild", "young",
}, {
	"alder", "ash", "aspen", "beech", "birch", "cedar", "cherry", "cypress",
	"elder", "elm", "fern", "fir", "hazel", "heath", "holly", "ivy",
	"juniper", "larch", "laurel", "linden", "maple", "moss", "oak", "olive",
	"pine", "plane", "reed", "rowan", "sorrel", "spruce", "willow", "yew",
}}

// newBranchID makes an id out of 50 random bits.
func newBranchID(random io.Reader) (BranchID, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make branch id: %w", err)
	}
	r := binary.LittleEndian.Uint64(b[:])
	const digits = "0123456789abcdefghijklmnopqrstuv"
	tail := make([]byte, 8)
	for i := range tail {
		tail[i] = digits[r>>(10+5*i)&31]
	}
	return BranchID(fmt.Sprintf("br-%s-%s-%s", idWords[0][r&31], idWords[1][r>>5&31], tail)), nil
}

func newNonce(random io.Reader) (n nonce, err error) {
	if random == nil {
		random = rand.Reader
	}
	if _, err = io.ReadFull(random, n[:]); err != nil {
		return n, fmt.Errorf("make nonce: %w", err)
	}
	return n, nil
}

// Keys of the objects of a store. Numbers are padded, so that they list in order.
const (
	formatKey     = "format"
	projectPrefix = "projects/"
	namePrefix    = "names/"
	branchPrefix  = "branches/"
)

func projectKey(name string) string       { return projectPrefix + name }
func nameKey(project, name string) string { return namePrefix + project + "/" + name }
func manifestKey(id BranchID) string      { return branchPrefix + string(id) + "/manifest" }
func segmentPrefix(id BranchID) string    { return branchPrefix + string(id) + "/seg/" }
func checkpointPrefix(id BranchID) string { return branchPrefix + string(id) + "/ckpt/" }
func packPrefix(id BranchID) string       { return branchPrefix + string(id) + "/pack/" }

func segmentKey(id BranchID, n wal.SegmentNo) string {
	return fmt.Sprintf("%s%012d", segmentPrefix(id), n)
}

func checkpointKey(id BranchID, n wal.SegmentNo) string {
	return fmt.Sprintf("%s%012d", checkpointPrefix(id), n)
}

func packKey(id BranchID, from, to wal.SegmentNo, gen uint64) string {
	return fmt.Sprintf("%s%012d-%012d.%d", packPrefix(id), from, to, gen)
}
