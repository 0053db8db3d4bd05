package dirstore_test

import (
	"fmt"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
)

func BenchmarkPutAbsent(b *testing.B) {
	for _, size := range []int{300, 64 << 10, 16 << 20} {
		for _, fresh := range []bool{false, true} {
			if fresh && size > 300 {
				continue
			}
			b.Run(fmt.Sprintf("%d/newdir=%v", size, fresh), func(b *testing.B) {
				s := openBench(b)
				body := make([]byte, size)
				b.SetBytes(int64(size))
				for i := 0; b.Loop(); i++ {
					key := fmt.Sprintf("branches/x/%d", i)
					if fresh {
						key = fmt.Sprintf("branches/%d/manifest", i)
					}
					if _, err := s.Put(b.Context(), key, body, objstore.Condition{IfAbsent: true}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPutMatch(b *testing.B) {
	s := openBench(b)
	body := make([]byte, 300)
	tag, err := s.Put(b.Context(), "branches/x/manifest", body, objstore.Condition{})
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		body[0], body[1] = byte(i), byte(i>>8)
		if tag, err = s.Put(b.Context(), "branches/x/manifest", body, objstore.Condition{IfMatch: tag}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s := openBench(b)
	if _, err := s.Put(b.Context(), "branches/x/manifest", make([]byte, 300), objstore.Condition{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := s.Get(b.Context(), "branches/x/manifest"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAt(b *testing.B) {
	for _, exclusive := range []bool{true, false} {
		b.Run(fmt.Sprintf("exclusive=%v", exclusive), func(b *testing.B) {
			s := openBenchAs(b, exclusive)
			const size, part = 16 << 20, 64 << 10
			if _, err := s.Put(b.Context(), "branches/x/seg/1", make([]byte, size), objstore.Condition{}); err != nil {
				b.Fatal(err)
			}
			p := make([]byte, part)
			b.SetBytes(part)
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				if _, _, err := s.ReadAt(b.Context(), "branches/x/seg/1", p, i*part%size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	s := openBench(b)
	for i := range 1000 {
		if _, err := s.Put(b.Context(), fmt.Sprintf("branches/x/seg/%08d", i), nil, objstore.Condition{}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if infos, err := s.List(b.Context(), "branches/x/seg/", "", 0); err != nil || len(infos) != 1000 {
			b.Fatal(len(infos), err)
		}
	}
}

func openBench(b *testing.B) *dirstore.Store { return openBenchAs(b, true) }

func openBenchAs(b *testing.B, exclusive bool) *dirstore.Store {
	b.Helper()
	s, err := dirstore.Open(b.TempDir(), quiet(nil, exclusive))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}
