// Package vfstest is the conformance suite of vfs.FS: every body runs it.
package vfstest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/bough-db/bough/vfs"
)

// Run tests the file system that open returns, in the directory that it returns
// with it. The directory exists and is empty.
func Run(t *testing.T, open func(t *testing.T) (fsys vfs.FS, dir string)) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, fsys vfs.FS, dir string)
	}{
		{"ReadWrite", testReadWrite},
		{"Vectored", testVectored},
		{"Sizes", testSizes},
		{"Flags", testFlags},
		{"Names", testNames},
		{"Dirs", testDirs},
		{"Direct", testDirect},
		{"Lock", testLock},
		{"Closed", testClosed},
		{"CloseWaits", testCloseWaits},
		{"WriteFileSync", testWriteFileSync},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys, dir := open(t)
			c.test(t, fsys, dir)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func create(t *testing.T, fsys vfs.FS, name string, flag int) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|flag, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return p
}

func aligned(n int) []byte {
	b := make([]byte, n+vfs.Align)
	for uintptr(unsafe.Pointer(unsafe.SliceData(b)))%vfs.Align != 0 {
		b = b[1:]
	}
	return b[:n]
}

func testReadWrite(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "f"), 0)
	want := pattern(10000, 1)
	n, err := f.WriteAt(want, 0)
	if n != len(want) || err != nil {
		t.Fatalf("WriteAt = %d, %v", n, err)
	}
	_, err = f.WriteAt(want[:100], 5000)
	must(t, err)
	copy(want[5000:], want[:100])
	must(t, f.Sync())
	got := make([]byte, 10000)
	n, err = f.ReadAt(got, 0)
	if n != len(got) || err != nil || !bytes.Equal(got, want) {
		t.Fatalf("ReadAt = %d, %v, equal %v", n, err, bytes.Equal(got, want))
	}
	n, err = f.ReadAt(got, 9990)
	if n != 10 || err != io.EOF {
		t.Fatalf("read across the end = %d, %v; want 10, io.EOF", n, err)
	}
	// A hole reads as zeros.
	_, err = f.WriteAt([]byte{1}, 30000)
	must(t, err)
	_, err = f.ReadAt(got[:1000], 20000)
	must(t, err)
	if !bytes.Equal(got[:1000], make([]byte, 1000)) {
		t.Fatal("hole is not zero")
	}
}

func testVectored(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "f"), 0)
	for _, durable := range []bool{false, true} {
		var bufs [][]byte
		var want []byte
		// More buffers than fit in one system call, empty ones among them.
		for i := range 200 {
			b := pattern(i%5*100, byte(i))
			bufs = append(bufs, b)
			want = append(want, b...)
		}
		must(t, f.WritevAt(bufs, 77, durable))
		got := make([]byte, len(want))
		_, err := f.ReadAt(got, 77)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("durable=%v: contents differ", durable)
		}
	}
	must(t, f.WritevAt(nil, 0, true))
	must(t, f.WritevAt([][]byte{nil, {}}, 0, true))
}

func testSizes(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	f := create(t, fsys, name, 0)
	check := func(want int64) {
		t.Helper()
		got, err := f.Size()
		if err != nil || got != want {
			t.Fatalf("Size = %d, %v; want %d", got, err, want)
		}
		st, err := fsys.Stat(name)
		if err != nil || st.Size() != want || st.IsDir() || st.Name() != "f" {
			t.Fatalf("Stat = %+v, %v; want size %d", st, err, want)
		}
	}
	check(0)
	_, err := f.WriteAt(pattern(6000, 3), 0)
	must(t, err)
	check(6000)
	must(t, f.Truncate(100))
	check(100)
	must(t, f.Truncate(6000))
	got := make([]byte, 6000)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got[:100], pattern(100, 3)) || !bytes.Equal(got[100:], make([]byte, 5900)) {
		t.Fatal("a truncation did not cut, or its data came back")
	}
	must(t, f.Allocate(4096, 8192))
	check(12288)
	must(t, f.Allocate(0, 10))
	check(12288)
}

func testFlags(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	_, err := fsys.OpenFile(name, os.O_RDWR, 0)
	wantErr(t, err, fs.ErrNotExist)
	f := create(t, fsys, name, os.O_EXCL)
	_, err = fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	wantErr(t, err, fs.ErrExist)
	_, err = fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|vfs.Direct, 0o600)
	wantErr(t, err, fs.ErrExist)
	_, err = f.WriteAt([]byte("hello"), 0)
	must(t, err)
	ro, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	must(t, err)
	if _, err := ro.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("write through a file opened for reading succeeded")
	}
	must(t, ro.Close())
	tr, err := fsys.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
	must(t, err)
	if n, err := tr.Size(); n != 0 || err != nil {
		t.Fatalf("size after O_TRUNC = %d, %v", n, err)
	}
	must(t, tr.Close())
	_, err = fsys.OpenFile(filepath.Join(dir, "missing", "f"), os.O_RDWR|os.O_CREATE, 0o600)
	wantErr(t, err, fs.ErrNotExist)
	if f.Name() != name {
		t.Fatalf("Name = %q", f.Name())
	}
}

func testNames(t *testing.T, fsys vfs.FS, dir string) {
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	must(t, vfs.WriteFileSync(fsys, a, []byte("A"), 0o600))
	must(t, vfs.WriteFileSync(fsys, b, []byte("B"), 0o600))
	wantErr(t, fsys.Link(a, b), fs.ErrExist)
	wantErr(t, fsys.Link(filepath.Join(dir, "none"), c), fs.ErrNotExist)
	must(t, fsys.Link(a, c))
	must(t, fsys.Rename(a, b))
	_, err := fsys.Stat(a)
	wantErr(t, err, fs.ErrNotExist)
	for _, name := range []string{b, c} {
		got, err := vfs.ReadFile(fsys, name)
		if err != nil || string(got) != "A" {
			t.Fatalf("%s = %q, %v; want A", name, got, err)
		}
	}
	f, err := fsys.OpenFile(c, os.O_RDONLY, 0)
	must(t, err)
	must(t, fsys.Remove(c))
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, 0); err != nil || p[0] != 'A' {
		t.Fatalf("read of a removed open file: %q, %v", p, err)
	}
	must(t, f.Close())
	wantErr(t, fsys.Remove(c), fs.ErrNotExist)
	wantErr(t, fsys.Rename(c, a), fs.ErrNotExist)
	must(t, fsys.SyncDir(dir))
}

func testDirs(t *testing.T, fsys vfs.FS, dir string) {
	deep := filepath.Join(dir, "x", "y", "z")
	must(t, vfs.MkdirAllSync(fsys, deep, 0o700))
	must(t, fsys.MkdirAll(deep, 0o700))
	must(t, vfs.WriteFileSync(fsys, filepath.Join(deep, "b"), nil, 0o600))
	must(t, vfs.WriteFileSync(fsys, filepath.Join(deep, "a"), []byte("12"), 0o600))
	must(t, fsys.MkdirAll(filepath.Join(deep, "c"), 0o700))
	list, err := fsys.ReadDir(deep)
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
		if e.IsDir() != (e.Name() == "c") {
			t.Fatalf("IsDir of %s = %v", e.Name(), e.IsDir())
		}
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Fatalf("ReadDir = %v", names)
	}
	if i, err := list[0].Info(); err != nil || i.Size() != 2 {
		t.Fatalf("Info of a = %v, %v", i, err)
	}
	if fsys.Remove(deep) == nil {
		t.Fatal("removed a directory that is not empty")
	}
	_, err = fsys.ReadDir(filepath.Join(dir, "none"))
	wantErr(t, err, fs.ErrNotExist)
	wantErr(t, fsys.SyncDir(filepath.Join(dir, "none")), fs.ErrNotExist)
	if fsys.MkdirAll(filepath.Join(deep, "a", "b"), 0o700) == nil {
		t.Fatal("made a directory below a file")
	}
	must(t, fsys.Remove(filepath.Join(deep, "c")))
}

func testDirect(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "f"), vfs.Direct)
	p := aligned(3 * vfs.Align)
	copy(p, pattern(len(p), 9))
	must(t, f.WritevAt([][]byte{p[:vfs.Align], p[vfs.Align:]}, 4*vfs.Align, true))
	got := aligned(len(p))
	_, err := f.ReadAt(got, 4*vfs.Align)
	must(t, err)
	if !bytes.Equal(got, p) {
		t.Fatal("contents differ")
	}
	// A file system may take misaligned direct writes (tmpfs does).
	if _, err := f.WriteAt(p[:100], 0); err != nil && !f.Direct() {
		t.Fatalf("misaligned write without direct I/O: %v", err)
	}
	if n, err := f.ReadAt(got, 6*vfs.Align); err != io.EOF || n != vfs.Align {
		t.Fatalf("read across the end = %d, %v", n, err)
	}
	if n := testing.AllocsPerRun(20, func() {
		if f.WritevAt([][]byte{p}, 0, true) != nil {
			t.Fail()
		}
	}); n > 2 {
		t.Logf("a durable write allocates %v times", n)
	}
}

func testLock(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "lock")
	l, err := fsys.Lock(name)
	must(t, err)
	_, err = fsys.Lock(name)
	wantErr(t, err, vfs.ErrLocked)
	must(t, l.Close())
	l, err = fsys.Lock(name)
	must(t, err)
	must(t, l.Close())
}

func testClosed(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "f"), 0)
	must(t, f.Close())
	_, rerr := f.ReadAt(make([]byte, 1), 0)
	_, werr := f.WriteAt(make([]byte, 1), 0)
	_, serr := f.Size()
	for _, err := range []error{
		rerr, werr, serr, f.WritevAt([][]byte{{1}}, 0, true),
		f.Sync(), f.Truncate(0), f.Allocate(0, 1), f.Close(),
	} {
		wantErr(t, err, fs.ErrClosed)
	}
}

// testCloseWaits runs operations against a Close: none may reach the descriptor
// of the file that is opened next.
func testCloseWaits(t *testing.T, fsys vfs.FS, dir string) {
	victim := create(t, fsys, filepath.Join(dir, "victim"), 0)
	for range 50 {
		f := create(t, fsys, filepath.Join(dir, "f"), 0)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if f.WritevAt([][]byte{{1}}, 0, false) != nil {
						return
					}
				}
			})
		}
		must(t, f.Close())
		g := create(t, fsys, filepath.Join(dir, "g"), os.O_TRUNC)
		wg.Wait()
		if n, err := g.Size(); n != 0 || err != nil {
			t.Fatalf("a write to a closed file reached another: size %d, %v", n, err)
		}
		must(t, g.Close())
	}
	if n, err := victim.Size(); n != 0 || err != nil {
		t.Fatalf("victim has size %d, %v", n, err)
	}
}

func testWriteFileSync(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	for _, want := range []string{"one", "", "three"} {
		must(t, vfs.WriteFileSync(fsys, name, []byte(want), 0o600))
		got, err := vfs.ReadFile(fsys, name)
		if err != nil || string(got) != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	list, err := fsys.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("left behind: %v, %v", list, err)
	}
}
