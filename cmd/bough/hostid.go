package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/vfs"
)

// hostFile is the name, in the state directory, of the file that says which host of
// its store this is. It is made once: branches that this host has attached, and
// journals that are not in the store yet, belong to that id.
//
// It is one line, and JSON:
//
//	bough host-id <version> <CRC32C of the rest, 8 hex digits>\n
//	{"id": "…", "created": "…"}\n
const (
	hostFile         = "host"
	hostFileKind     = "host-id"
	hostFileVersion  = 1
	hostFileBytesMax = 4096
)

// hostIdentity is what the host file says.
type hostIdentity struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// Errors of the host file.
var (
	errHostFileDamaged = errors.New("damaged")
	errHostFileNewer   = errors.New("written by a newer version of bough")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// loadHostID returns the id of the state directory's host, and makes one when there
// is none yet.
func loadHostID(fsys vfs.FS, state, hostname string, now time.Time) (string, error) {
	path := filepath.Join(state, hostFile)
	text, err := vfs.ReadFile(fsys, path)
	if err == nil {
		h, err := decodeHostID(text)
		switch {
		case errors.Is(err, errHostFileNewer):
			return "", fmt.Errorf("read %s: %w: run the newer version of bough", path, err)
		case err != nil:
			return "", fmt.Errorf("read %s: %w: put it back from a copy, or remove it to be a new host, for which the branches of the old one have to be taken over", path, err)
		}
		return h.ID, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the host's id: %w", err)
	}
	h := hostIdentity{ID: newHostID(hostname), Created: now.UTC()}
	if text, err = encodeHostID(h); err != nil {
		return "", err
	}
	if err := vfs.WriteFileSync(fsys, path, text, 0o644); err != nil {
		return "", fmt.Errorf("record the host's id: %w", err)
	}
	return h.ID, nil
}

func encodeHostID(h hostIdentity) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the host's id: %w", err)
	}
	body = append(body, '\n')
	head := fmt.Sprintf("bough %s %d %08x\n", hostFileKind, hostFileVersion, crc32.Checksum(body, castagnoli))
	return append([]byte(head), body...), nil
}

func decodeHostID(text []byte) (hostIdentity, error) {
	var h hostIdentity
	if len(text) > hostFileBytesMax {
		return h, fmt.Errorf("%w: it has %d bytes", errHostFileDamaged, len(text))
	}
	line, body, ok := bytes.Cut(text, []byte{'\n'})
	words := strings.Split(string(line), " ")
	if !ok || len(words) != 4 || words[0] != "bough" || words[1] != hostFileKind {
		return h, fmt.Errorf("%w: no header line", errHostFileDamaged)
	}
	if words[2] != fmt.Sprint(hostFileVersion) {
		return h, fmt.Errorf("%w: version %.20q, this program knows %d", errHostFileNewer, words[2], hostFileVersion)
	}
	if sum := fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)); sum != words[3] {
		return h, fmt.Errorf("%w: checksum %s instead of %.20q", errHostFileDamaged, sum, words[3])
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, fmt.Errorf("%w: %w", errHostFileDamaged, err)
	}
	if err := cow.CheckName(h.ID); err != nil {
		return h, fmt.Errorf("%w: %w", errHostFileDamaged, err)
	}
	return h, nil
}

// newHostID returns an id that says which machine it is, and that no other state
// directory has: 40 random bits follow the name.
func newHostID(hostname string) string {
	random := make([]byte, 5)
	_, _ = rand.Read(random) // never fails, see there
	suffix := strings.ToLower(base32.HexEncoding.EncodeToString(random))
	return sanitizeHostname(hostname) + "-" + suffix
}

// hostnameBytesMax leaves room in a name for the random part.
const hostnameBytesMax = 40

// sanitizeHostname makes a name that may be part of a key out of a host's.
func sanitizeHostname(name string) string {
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name, "-")
	if len(name) > hostnameBytesMax {
		name = strings.TrimRight(name[:hostnameBytesMax], "-")
	}
	if name == "" {
		return "host"
	}
	return name
}
