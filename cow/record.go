package cow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/bough-db/bough/objstore"
)

// A record is how the store keeps what is small and changes: one header line
//
//	bough <kind> <version> <CRC32C of the body, 8 hex digits>\n
//
// and a JSON body that a person can read. An unknown field is refused, so that
// a program never drops what a later version wrote.
const recordVersion = 1

// encodeRecord returns the record of the kind with v as its body.
func encodeRecord(kind string, v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", kind, err)
	}
	body = append(body, '\n')
	head := fmt.Sprintf("bough %s %d %08x\n", kind, recordVersion, crc32.Checksum(body, castagnoli))
	return append([]byte(head), body...), nil
}

// decodeRecord reads a record of the kind into v.
func decodeRecord(kind string, data []byte, v any) error {
	line, body, ok := bytes.Cut(data, []byte{'\n'})
	words := strings.Fields(string(line[:min(len(line), 200)]))
	if !ok || len(words) != 4 || words[0] != "bough" || words[1] != kind {
		return fmt.Errorf("read %s record: no header line: %w", kind, ErrCorrupt)
	}
	if words[2] != fmt.Sprint(recordVersion) {
		return fmt.Errorf("read %s record: version %s, this program knows %d: %w",
			kind, words[2], recordVersion, ErrNewerFormat)
	}
	if sum := fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)); sum != words[3] {
		return fmt.Errorf("read %s record: checksum %s instead of %s: %w", kind, sum, words[3], ErrCorrupt)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("read %s record: %w: %w", kind, err, ErrCorrupt)
	}
	return nil
}

// readRecord reads a record from the store into v and returns its version tag.
// What does not check out is read once more.
func (s *Store) readRecord(ctx context.Context, kind, key string, v any) (tag string, err error) {
	return readRecord(ctx, s.objects, kind, key, v)
}

func readRecord(ctx context.Context, objects objstore.Store, kind, key string, v any) (tag string, err error) {
	for range 2 {
		var data []byte
		var info objstore.Info
		if data, info, err = objects.Get(ctx, key); err != nil {
			return "", err
		}
		if err = decodeRecord(kind, data, v); err == nil {
			return info.Tag, nil
		}
		err = fmt.Errorf("object %s: %w", key, err)
	}
	return "", err
}
