package memdev_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/blockdev/memdev"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

// TestAgainstModel compares a device with a byte slice, and what a power cut leaves
// with a copy of the slice made at the last flush.
func TestAgainstModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	ctx := t.Context()
	const size = 1 << 18
	d := memdev.New(size, memdev.Options{TrackDurable: true})
	model, durable := make([]byte, size), make([]byte, size)
	for i := range 3000 {
		off := rng.Int64N(size)
		n := rng.Int64N(min(size-off, 3*blockdev.BlockSize) + 1)
		var err error
		switch op := rng.IntN(6); op {
		case 0, 1:
			p := bytes.Repeat([]byte{byte(rng.IntN(256))}, int(n))
			copy(model[off:], p)
			err = d.WriteAt(ctx, p, off)
		case 2:
			clear(model[off : off+n])
			err = d.Trim(ctx, off, n)
		case 3:
			clear(model[off : off+n])
			err = d.WriteZeroes(ctx, off, n)
		case 4:
			got := bytes.Repeat([]byte{0xee}, int(n))
			err = d.ReadAt(ctx, got, off)
			if !bytes.Equal(got, model[off:off+n]) {
				t.Fatalf("step %d: read %d+%d differs from the model", i, off, n)
			}
		case 5:
			copy(durable, model)
			err = d.Flush(ctx)
		}
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	got := make([]byte, size)
	if err := d.PowerCut().ReadAt(ctx, got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, durable) {
		t.Fatal("a power cut left something else than the last flush covered")
	}
}

func TestFailedCallsChangeNothing(t *testing.T) {
	ctx := t.Context()
	d := memdev.New(1<<20, memdev.Options{})
	one := bytes.Repeat([]byte{1}, 4096)
	for name, err := range map[string]error{
		"write": d.WriteAt(ctx, one, 1<<20),
		"read":  d.ReadAt(ctx, one, 1<<20-1),
		"trim":  d.Trim(ctx, 0, 1<<20+1),
		"zero":  d.WriteZeroes(ctx, -1, 1),
	} {
		if !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("%s outside the device: %v, want ErrOutOfRange", name, err)
		}
	}
	refused := errors.New("refused")
	d.SetHook(func(context.Context, memdev.Call) error { return refused })
	for name, err := range map[string]error{
		"write": d.WriteAt(ctx, one, 0), "read": d.ReadAt(ctx, one, 0), "flush": d.Flush(ctx),
		"trim": d.Trim(ctx, 0, 1), "zero": d.WriteZeroes(ctx, 0, 1),
	} {
		if !errors.Is(err, refused) {
			t.Errorf("%s: %v, want the hook's error", name, err)
		}
	}
	if s := d.Stats(); s.Blocks != 0 || s.Calls[memdev.Write] != 2 {
		t.Errorf("after failures: %v; want nothing held and 2 writes counted", s)
	}
}

func TestGrow(t *testing.T) {
	d := memdev.New(4096, memdev.Options{WriteThrough: true})
	d.Grow(8192)
	d.Grow(100) // ignored
	if d.Size() != 8192 || !d.WriteThrough() {
		t.Fatalf("size %d, write-through %v; want 8192 and true", d.Size(), d.WriteThrough())
	}
	if err := d.WriteAt(t.Context(), make([]byte, 4096), 4096); err != nil {
		t.Fatal(err)
	}
}

func ExampleStats_String() {
	d := memdev.New(1<<40, memdev.Options{})
	_ = d.WriteAt(context.Background(), make([]byte, 8192), 1<<39)
	_ = d.Flush(context.Background())
	fmt.Println(d.Stats())
	// Output: write 1 calls 8192 bytes 1 in flight; flush 1 calls 0 bytes 1 in flight; 8 KiB held
}
