package branchfs

import (
	"context"
	"log/slog"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/bough-db/bough/blockdev/memdev"
)

type closer struct{ *memdev.Device }

func (closer) Close(context.Context) error { return nil }

// FuzzRanges makes requests with any numbers: none may panic, and none may reach the
// device with a range that it does not have.
func FuzzRanges(f *testing.F) {
	const size = 1 << 20
	for _, n := range []uint64{0, 1, 4095, size - 1, size, size + 1, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		f.Add(n, uint32(4096), uint64(4096), uint32(3))
		f.Add(uint64(0), uint32(size), n, uint32(0x10))
		f.Add(n, uint32(0), n, uint32(0x11))
	}
	f.Fuzz(func(t *testing.T, off uint64, short uint32, long uint64, mode uint32) {
		dev := memdev.New(size, memdev.Options{})
		dev.SetHook(func(_ context.Context, c memdev.Call) error {
			if c.Off < 0 || c.Len < 0 || c.Off > size || c.Len > size-c.Off {
				t.Errorf("%v %d+%d reached a device of %d bytes", c.Kind, c.Off, c.Len, size)
			}
			return nil
		})
		fs := &fileSystem{
			life:    t.Context(),
			log:     slog.New(slog.DiscardHandler),
			handles: &handleTable{open: map[uint64]any{}},
		}
		d := &disk{dev: closer{dev}, trim: dev, zero: dev, log: fs.log}
		fh := fs.handles.add(d)
		past := fs.handles.add(&disk{dev: closer{memdev.New(size, memdev.Options{})}, readOnly: true, log: fs.log})
		text := fs.handles.add([]byte("status"))
		short %= 2 << 20
		buf := make([]byte, short)
		for _, fh := range []uint64{fh, text, off} {
			if r, st := fs.Read(nil, &fuse.ReadIn{Fh: fh, Offset: off, Size: short}, buf); st == fuse.OK && r.Size() > len(buf) {
				t.Errorf("read of %d bytes answered with %d", len(buf), r.Size())
			}
			n, st := fs.Writev(nil, &fuse.WriteIn{Fh: fh, Offset: off, Size: short}, [][]byte{buf})
			if st == fuse.OK && n != short {
				t.Errorf("write of %d bytes wrote %d", short, n)
			}
			_ = fs.Fallocate(nil, &fuse.FallocateIn{Fh: fh, Offset: off, Length: long, Mode: mode})
			_ = fs.Fsync(nil, &fuse.FsyncIn{Fh: fh})
		}
		if n, st := fs.Writev(nil, &fuse.WriteIn{Fh: past, Offset: off, Size: short}, [][]byte{buf}); st != fuse.EROFS || n != 0 {
			t.Errorf("write to the past answered %v for %d bytes", st, n)
		}
		if st := fs.Fallocate(nil, &fuse.FallocateIn{Fh: past, Offset: off, Length: long, Mode: mode}); st != fuse.EROFS {
			t.Errorf("fallocate in the past answered %v", st)
		}
	})
}
