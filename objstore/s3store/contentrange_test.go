package s3store

import (
	"errors"
	"fmt"
	"testing"
)

func TestParseContentRange(t *testing.T) {
	for _, test := range []struct {
		header string
		want   span
		ok     bool
	}{
		{"bytes 0-0/1", span{0, 0, 1}, true},
		{"bytes 5-9/10", span{5, 9, 10}, true},
		{"bytes 0-9223372036854775806/9223372036854775807", span{0, 1<<63 - 2, 1<<63 - 1}, true},
		{"bytes 5-10/10", span{}, false},
		{"bytes 6-5/10", span{}, false},
		{"bytes 0-0/*", span{}, false},
		{"bytes */10", span{}, false},
		{"bytes 0-0/9223372036854775808", span{}, false},
		{"bytes -1-0/1", span{}, false},
		{"bytes +0-0/1", span{}, false},
		{"bytes 0-0", span{}, false},
		{"bytes 0/1", span{}, false},
		{"bytes=0-0/1", span{}, false},
		{"items 0-0/1", span{}, false},
		{"bytes 0-0/1 ", span{}, false},
		{"bytes", span{}, false},
		{"", span{}, false},
	} {
		got, err := parseContentRange(test.header)
		if got != test.want || (err == nil) != test.ok || err != nil && !errors.Is(err, errRange) {
			t.Errorf("parseContentRange(%q) = %+v, %v, want %+v, ok %v", test.header, got, err, test.want, test.ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 0-9223372036854775807/9223372036854775807")
	f.Add("bytes 00-0_0/1e3")
	f.Fuzz(func(t *testing.T, header string) {
		s, err := parseContentRange(header)
		if err != nil {
			return
		}
		if s.first < 0 || s.length() < 1 || s.last >= s.size {
			t.Fatalf("parseContentRange(%q) = %+v", header, s)
		}
		again, err := parseContentRange(fmt.Sprintf("bytes %d-%d/%d", s.first, s.last, s.size))
		if err != nil || again != s {
			t.Errorf("parseContentRange(%q) = %+v, which written down gives %+v, %v", header, s, again, err)
		}
	})
}
