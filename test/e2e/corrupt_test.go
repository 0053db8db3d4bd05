package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/api"
)

const (
	pageBytes = 4096
	// frameBytesMax is the largest unit that a checksum of the store covers.
	frameBytesMax = 64 << 10
)

// archive is a host with data that is known: the tables of demo and other, and
// the file of the branch demo/dev. Nothing runs on its branches.
type archive struct {
	*host
	random *rand.Rand
	file   []byte // content of the file "big" on demo/dev
}

const (
	archiveRows  = 5000
	archiveQuery = "select count(*) from t where md5(i::text) = sum"
)

func newArchive(t *testing.T, fileBytes int) *archive {
	t.Helper()
	a := &archive{host: newHost(t), random: run.random(t), file: make([]byte, fileBytes)}
	a.start("--create", "demo")
	a.bough("project", "create", "other")
	for _, ref := range []string{"demo", "other"} {
		a.exec(ref, fmt.Sprintf("create table t as select i, md5(i::text) as sum from generate_series(1, %d) i", archiveRows),
			"create unique index on t (i)")
	}
	for i := range a.file {
		a.file[i] = byte(a.random.Uint32()) // which no compression makes smaller
	}
	a.bough("branch", "create", "demo/dev")
	at := a.attach("demo/dev")
	f, err := os.Create(filepath.Join(at, "big"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(a.file)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	a.bough("detach", "demo/dev")
	a.bough("suspend", "demo")
	a.bough("suspend", "other")
	return a
}

// attach mounts a branch and returns where.
func (h *host) attach(ref string) string {
	h.t.Helper()
	var at api.Attachment
	h.json(&at, "attach", ref)
	return at.Mountpoint
}

// object returns the file of an object in the store.
func (h *host) object(key string) string { return filepath.Join(h.state, "store", key) }

// checkTables checks that the tables of projects are as they were written.
func (a *archive) checkTables(projects ...string) {
	a.t.Helper()
	for _, p := range projects {
		if n := a.count(p, archiveQuery); n != archiveRows {
			a.t.Errorf("%s: %d rows are as they were written, want %d", p, n, archiveRows)
		}
	}
}

// readFile reads the file on demo/dev page by page. It returns the numbers of the
// pages that cannot be read; the others must be as they were written.
func (a *archive) readFile() (bad []int) {
	a.t.Helper()
	f, err := os.Open(filepath.Join(a.attach("demo/dev"), "big"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() {
		_ = f.Close()
		a.bough("detach", "demo/dev")
	}()
	// Without read-ahead, each page is a request of its own.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		a.t.Fatal(err)
	}
	page := make([]byte, pageBytes)
	for i := range len(a.file) / pageBytes {
		want := a.file[i*pageBytes:][:pageBytes]
		_, err := f.ReadAt(page, int64(i)*pageBytes)
		switch {
		case errors.Is(err, unix.EIO):
			bad = append(bad, i)
		case err != nil:
			a.t.Fatalf("read page %d: %v", i, err)
		case !bytes.Equal(page, want):
			a.t.Errorf("page %d is not what was written, and came without an error", i)
		}
	}
	return bad
}

// flip inverts one bit of a file. Doing it again undoes it.
func flip(t *testing.T, path string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], bit/8); err != nil {
		t.Fatalf("read byte %d of %s: %v", bit/8, path, err)
	}
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b[:], bit/8)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// flipAny flips a random bit of a file and returns which.
func (a *archive) flipAny(path string) int64 {
	a.t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		a.t.Fatal(err)
	}
	bit := a.random.Int64N(info.Size() * 8)
	flip(a.t, path, bit)
	a.t.Logf("flipped bit %d of %s", bit, strings.TrimPrefix(path, a.state+"/"))
	return bit
}

// dropCache makes the next daemon read everything from the store.
func (h *host) dropCache() {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.state, "cache")); err != nil {
		h.t.Fatal(err)
	}
}

// checkNamed checks that verify names one object, and besides it at most what
// follows for the branch that it belongs to.
func (h *host) checkNamed(key string) {
	h.t.Helper()
	problems, r := h.verify()
	if !slices.ContainsFunc(problems, func(p api.VerifyProblem) bool { return p.Object == key }) {
		h.t.Errorf("verify does not name %s: %v", key, r)
	}
	dir := strings.Split(key, "/")
	for _, p := range problems {
		follows := dir[0] == "branches" && p.Object == "branches/"+dir[1]+"/manifest"
		if p.Object != key && !follows || p.Detail == "" || strings.Contains(p.Detail, "\n") {
			h.t.Errorf("verify: %+v, want one line about %s", p, key)
		}
	}
}

// checkNothing checks that verify finds nothing wrong.
func (h *host) checkNothing() {
	h.t.Helper()
	if problems, r := h.verify(); len(problems) > 0 {
		h.t.Errorf("verify: %v", r)
	}
}

// restart starts another daemon after the store was changed below it.
func (a *archive) restart(change func()) {
	a.t.Helper()
	a.stop()
	change()
	a.dropCache()
	a.start()
}

// TestCorruptSegment flips a bit in the data of a segment: it takes a frame of one
// branch away and nothing else (I7).
func TestCorruptSegment(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 24<<20)
	key, bit := a.findPage(len(a.file)/pageBytes/2, a.branchNamed("demo/dev").ID)
	a.restart(func() { flip(t, a.object(key), bit) })

	a.checkNamed(key)
	a.checkTables("demo", "other")
	bad := a.readFile()
	if len(bad) == 0 || len(bad) > frameBytesMax/pageBytes || !slices.Contains(bad, len(a.file)/pageBytes/2) {
		t.Errorf("pages that cannot be read: %v", bad)
	}
	a.checkFS("demo/dev")
	if log, err := os.ReadFile(a.log); err != nil || !bytes.Contains(log, []byte(key)) {
		t.Errorf("the daemon's log does not name %s: %v", key, err)
	}
	// A branch of it is no better, and no worse.
	a.bough("branch", "create", "demo/copy", "--from", "demo/dev")
	if n := a.count("demo/copy", archiveQuery); n != archiveRows {
		t.Errorf("a branch of the damaged one: %d rows", n)
	}
	a.bough("branch", "delete", "demo/copy")

	// The same bit back: everything is as it was.
	flip(t, a.object(key), bit)
	a.checkNothing()
	if bad := a.readFile(); len(bad) > 0 {
		t.Errorf("pages that cannot be read after the repair: %v", bad)
	}
}

// findPage returns the segment of a branch that holds page n of the file, and a bit
// in there.
func (a *archive) findPage(n int, id string) (key string, bit int64) {
	a.t.Helper()
	page := a.file[n*pageBytes:][:pageBytes]
	segments, err := filepath.Glob(a.object("branches/" + id + "/seg/*"))
	if err != nil {
		a.t.Fatal(err)
	}
	for _, s := range segments {
		text, err := os.ReadFile(s)
		if err != nil {
			a.t.Fatal(err)
		}
		// Random bytes are stored as they are, somewhere.
		if at := bytes.Index(text, page[100:400]); at >= 0 {
			key, err := filepath.Rel(a.object(""), s)
			if err != nil {
				a.t.Fatal(err)
			}
			return key, int64(at+a.random.IntN(300)) * 8
		}
	}
	a.t.Fatalf("no segment of %s holds page %d", id, n)
	return "", 0
}

// TestCorruptCache flips a bit in every slot of the disk cache: all of them heal.
func TestCorruptCache(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 4<<20)
	a.stop()
	path := filepath.Join(a.state, "cache", "frames")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < info.Size(); at += 2048 {
		flip(t, path, (at+a.random.Int64N(min(2048, info.Size()-at)))*8+a.random.Int64N(8))
	}
	a.start()
	a.checkTables("demo", "other")
	if bad := a.readFile(); len(bad) > 0 {
		t.Errorf("pages that cannot be read: %v", bad)
	}
	a.checkNothing()
	a.checkWhole("demo")
}

// TestCorruptRecord flips a bit in what is small and says what is where. Each object
// takes away what it is about, with one line that names it, and nothing else.
func TestCorruptRecord(t *testing.T) {
	t.Parallel()
	a := newArchive(t, 1<<20)
	dev, main := a.branchNamed("demo/dev").ID, a.branchNamed("demo").ID
	for _, c := range []struct {
		name, key string
		lost      []string // branches that may be refused
		whole     []string // projects whose tables can be read
	}{
		{"manifest", "branches/" + dev + "/manifest", []string{"demo/dev"}, []string{"demo", "other"}},
		{"manifest of a parent", "branches/" + main + "/manifest", []string{"demo", "demo/dev"}, []string{"other"}},
		{"name", "names/demo/dev", []string{"demo/dev"}, []string{"demo", "other"}},
		{"project", "projects/demo", []string{"demo", "demo/dev"}, []string{"other"}},
		{"checkpoint", "branches/" + dev + "/ckpt/", []string{"demo/dev"}, []string{"demo", "other"}},
		{"footer", "branches/" + dev + "/seg/", []string{"demo/dev"}, []string{"demo", "other"}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			a := &archive{host: a.with(t), random: a.random, file: a.file}
			words := []string{c.key, "bough verify"}
			a.stop() // which may write newer ones
			if strings.HasSuffix(c.key, "/") {
				c.key = a.newest(c.key)
				words = words[1:] // the kernel is in between, and verify has to be asked
			}
			info, err := os.Stat(a.object(c.key))
			if err != nil {
				t.Fatal(err)
			}
			bit := a.random.Int64N(info.Size() * 8)
			if c.name == "footer" { // which is at the end
				bit = (info.Size()-1-a.random.Int64N(16))*8 + a.random.Int64N(8)
			}
			t.Logf("flip bit %d of %s", bit, c.key)
			flip(t, a.object(c.key), bit)
			a.dropCache()
			a.start()
			repaired := false
			repair := func() {
				if !repaired {
					repaired = true
					a.restart(func() { flip(t, a.object(c.key), bit) })
				}
			}
			defer repair() // the next one needs it
			a.checkNamed(c.key)
			a.checkTables(c.whole...)
			for _, ref := range c.lost {
				// It may work all the same, from what else there is; then all of it.
				if r := a.call("start", ref); r.code != 0 {
					checkRefused(t, r, 1, words)
				} else if n := a.count(ref, archiveQuery); n != archiveRows {
					t.Errorf("%s: %d rows", ref, n)
				}
			}
			if out := a.bough("project", "list"); !strings.Contains(out, "demo") || !strings.Contains(out, "other") {
				t.Errorf("project list: %s", out)
			}
			if out := a.bough("branch", "list"); !strings.Contains(out, "demo/dev") || !strings.Contains(out, "other/main") {
				t.Errorf("branch list: %s", out)
			}
			repair()
			a.checkNothing()
			a.checkTables("demo", "other")
			if n := a.count("demo/dev", archiveQuery); n != archiveRows {
				t.Errorf("demo/dev after the repair: %d rows", n)
			}
		})
	}
}

// newest returns the object with the highest number below a prefix.
func (h *host) newest(prefix string) string {
	h.t.Helper()
	all, err := filepath.Glob(h.object(prefix + "*"))
	if err != nil || len(all) == 0 {
		h.t.Fatalf("no object below %s: %v", prefix, err)
	}
	return prefix + filepath.Base(slices.Max(all))
}

// TestCorruptAnywhere flips a random bit of a random object, again and again: verify
// names it, every time.
func TestCorruptAnywhere(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 2
	}
	a := newArchive(t, 1<<20)
	var keys []string
	err := filepath.WalkDir(a.object(""), func(path string, d fs.DirEntry, err error) error {
		// A start set is a hint: one that is damaged is not used, and that is all.
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), ".") && d.Name() != "format" && d.Name() != "start" {
			key, _ := filepath.Rel(a.object(""), path) // it is below
			keys = append(keys, key)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		key := keys[a.random.IntN(len(keys))]
		var bit int64
		a.restart(func() { bit = a.flipAny(a.object(key)) })
		a.checkNamed(key)
		a.restart(func() { flip(t, a.object(key), bit) })
	}
	a.checkNothing()
	a.checkTables("demo", "other")
	if bad := a.readFile(); len(bad) > 0 {
		t.Errorf("pages that cannot be read: %v", bad)
	}
}

// TestCorruptJournal flips a bit in the middle of the journal of a daemon that was
// killed: its branch is refused by name, all others go on, and nothing is thrown
// away, so that the repaired file gives everything back (I1).
func TestCorruptJournal(t *testing.T) {
	t.Parallel()
	k := newKiller(t, "flush")
	k.bough("project", "create", "other")
	k.exec("other", "create table t (i int)")
	k.bough("suspend", "other")
	id := k.branchNamed("demo").ID
	var journal string
	var bit int64
	for try := 0; journal == ""; try++ {
		if try > 0 { // the kill came when everything had just been stored
			k.start()
		}
		ctx, cancel := context.WithCancel(t.Context())
		clients := k.ledger.run(ctx, k.host, "demo")
		eventually(t, connectLimit, "clients commit", k.ledger.moved(200))
		k.kill()
		cancel()
		for range clients {
		}
		journal, bit = findRecord(t, filepath.Join(k.state, "journal"), id, k.random)
		if journal == "" {
			k.start()
			k.ledger.check(k.host, "demo")
			k.stop()
		}
		if try == 9 {
			t.Fatal("no kill leaves a journal with enough records")
		}
	}
	flip(t, journal, bit)
	for range 2 { // the second start finds the same
		k.start()
		k.refused(1, []string{filepath.Base(journal), "verify"}, "start", "demo")
		k.exec("other", "insert into t values (1)")
		k.bough("project", "create", "new"+fmt.Sprint(time.Now().UnixNano()))
		k.stop()
	}
	flip(t, journal, bit)
	k.check(0)
	k.finish()
}

// findRecord returns the live journal of a branch and a bit of a record in its
// middle; "" if no journal has enough of them.
func findRecord(t *testing.T, dir, id string, random *rand.Rand) (path string, bit int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "j-*"))
	if err != nil {
		t.Fatal(err)
	}
	const live = 1 // as docs/format-journal.md has it, which also has the offsets
	most := 8
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if text[10] != live || text[2048+10] != live || !bytes.Contains(text[:pageBytes], []byte(id)) {
			continue
		}
		var records []int // their slots
		for at := pageBytes; at < len(text); at += pageBytes {
			if bytes.HasPrefix(text[at:], []byte("boughrec")) && bytes.Equal(text[at+16:at+32], text[16:32]) {
				records = append(records, at/pageBytes)
			}
		}
		if len(records) > most {
			most = len(records)
			slot := records[most/4+random.IntN(most/2)]
			path, bit = f, int64(slot)*pageBytes*8+random.Int64N(100*8)
			t.Logf("flip bit %d of %s, which has %d records", bit, path, most)
		}
	}
	return path, bit
}
