package objstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/bough-db/bough/objstore"
)

func TestCheckKey(t *testing.T) {
	for _, test := range []struct {
		key         string
		key1, pref1 bool // allowed as key, as prefix
	}{
		{"", false, true},
		{"a", true, true},
		{"a/b.c_d-e/0", true, true},
		{"a/", false, true},
		{"/", false, false},
		{"a//b", false, false},
		{"a/./b", false, false},
		{"../a", false, false},
		{"a/..", false, false},
		{".a", false, false},
		{"a/.b", false, false},
		{"a..", true, true},
		{"A", false, false},
		{"a\x00", false, false},
		{"é", false, false},
		{strings.Repeat("a", 255), true, true},
		{strings.Repeat("a", 256), false, false},
		{strings.Repeat("ab/", 170) + "ab", true, true},
		{strings.Repeat("ab/", 170) + "abc", false, false},
	} {
		for _, c := range []struct {
			what string
			err  error
			want bool
		}{
			{"CheckKey", objstore.CheckKey(test.key), test.key1},
			{"CheckPrefix", objstore.CheckPrefix(test.key), test.pref1},
		} {
			if (c.err == nil) != c.want || c.err != nil && !errors.Is(c.err, objstore.ErrInvalidKey) {
				t.Errorf("%s(%q): got %v, want allowed %v", c.what, test.key, c.err, c.want)
			}
		}
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a/b", "../x", "a//b", "a/.b", "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if objstore.CheckKey(key) != nil {
			return
		}
		for i := range len(key) + 1 {
			if err := objstore.CheckPrefix(key[:i]); err != nil {
				t.Fatalf("%q is a key, but its prefix %q is none: %v", key, key[:i], err)
			}
		}
		if strings.Contains("/"+key+"/", "/../") || strings.HasPrefix(key, "/") || len(key) > objstore.KeyBytesMax {
			t.Fatalf("%q is allowed", key)
		}
	})
}

func TestWindow(t *testing.T) {
	for _, test := range []struct {
		size   int64
		length int
		off    int64
		start  int64
		n      int
	}{
		{10, 4, 0, 0, 4},
		{10, 4, 8, 8, 2},
		{10, 4, 10, 10, 0},
		{10, 4, 1 << 62, 10, 0},
		{10, 4, -4, 6, 4},
		{10, 2, -4, 6, 2},
		{10, 4, -40, 0, 4},
		{10, 4, -1 << 63, 0, 4},
		{0, 4, -4, 0, 0},
		{0, 0, 0, 0, 0},
	} {
		start, n := objstore.Window(test.size, test.length, test.off)
		if start != test.start || n != test.n {
			t.Errorf("Window(%d, %d, %d): got %d, %d, want %d, %d", test.size, test.length, test.off, start, n, test.start, test.n)
		}
	}
}

func TestContentTag(t *testing.T) {
	if got, want := objstore.ContentTag(nil), "0000000000000000-0"; got != want {
		t.Errorf("tag of nothing: got %q, want %q", got, want)
	}
	// Check values of CRC-32C and CRC-32 for "123456789".
	if got, want := objstore.ContentTag([]byte("123456789")), "e3069283cbf43926-9"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
