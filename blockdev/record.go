package blockdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Attachment is a branch's device that is bound to the kernel.
type Attachment struct {
	// ID is the branch's id.
	ID string `json:"id"`
	// File is the FUSE file that holds the device's bytes.
	File string `json:"file"`
	// Device is the path of the block device, like /dev/loop3.
	Device string `json:"device"`
	// Number is the loop device's number.
	Number int `json:"number"`
	// Dir is where the file system is mounted; empty for a bare device.
	Dir string `json:"dir,omitempty"`
	// WriteThrough says that the kernel was told of no volatile cache.
	WriteThrough bool `json:"write_through"`
	// ReadOnly says that the file system is mounted read-only.
	ReadOnly bool `json:"read_only,omitempty"`
	// DiskSeq is the kernel's number for this binding of the loop device: never used
	// again until the next boot. Empty before Linux 5.15.
	DiskSeq string `json:"disk_seq,omitempty"`
	// Boot is the kernel's boot id: after a reboot nothing of this exists.
	Boot string `json:"boot"`
	// Since is when the device was bound.
	Since time.Time `json:"since"`
}

const recordName = "attach.json"

func recordPath(state, id string) string { return filepath.Join(state, "run", id, recordName) }

// write puts a in the state directory: temporary file, fsync, rename. The directory
// is not synced: what is recorded does not survive a power cut either, and an old
// record says so by its boot id.
func (a Attachment) write(state string) (err error) {
	path := recordPath(state, a.ID)
	defer func() {
		if err != nil {
			err = fmt.Errorf("record attachment: %w", err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), recordName+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// removeRecord removes the record of a branch; there need be none.
func removeRecord(state, id string) error {
	err := os.Remove(recordPath(state, id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove attachment record: %w", err)
	}
	return nil
}

// readRecords returns the records in the state directory. One that cannot be read
// is returned with its ID alone: it is removed like the others, and what it told of
// is found by other means.
func readRecords(state string) ([]Attachment, error) {
	paths, err := filepath.Glob(recordPath(globEscape(state), "*"))
	if err != nil {
		return nil, fmt.Errorf("list attachment records: %w", err)
	}
	var records []Attachment
	for _, p := range paths {
		var a Attachment
		text, err := os.ReadFile(p)
		if err == nil {
			err = json.Unmarshal(text, &a)
		}
		if err != nil {
			a = Attachment{}
		}
		a.ID = filepath.Base(filepath.Dir(p))
		records = append(records, a)
	}
	return records, nil
}

// globEscape makes a path match only itself.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func bootID() string {
	text, err := readSys("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return text
}
