package proxy

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scanned is what a greetingScan reports.
type scanned struct {
	Key, Refused                    string
	Verdict, Failed, Ready, Between bool
}

// scanIn feeds p in pieces of at most size bytes.
func scanIn(p []byte, size int) (scanned, *greetingScan, error) {
	g := new(greetingScan)
	var err error
	for len(p) > 0 && err == nil {
		n := min(size, len(p))
		err = g.feed(p[:n])
		p = p[n:]
	}
	return scanned{g.key, g.refused, g.verdict, g.failed, g.ready, g.between()}, g, err
}

func TestGreetingScan(t *testing.T) {
	failure := func(code string) []byte { return refuse(code, "", "no").encode() }
	for _, tt := range []struct {
		name  string
		input []byte
		want  scanned
		bad   bool
	}{
		{name: "nothing", want: scanned{Between: true}},
		{name: "whole", input: greetingOf("pid+key1"), want: scanned{Key: "pid+key1", Verdict: true, Ready: true, Between: true}},
		{
			name:  "long key",
			input: greetingOf("pid+" + string(make([]byte, 256))),
			want:  scanned{Key: "pid+" + string(make([]byte, 256)), Verdict: true, Ready: true, Between: true},
		},
		{name: "key too long to be one", input: greetingOf(string(make([]byte, 5000))), want: scanned{Verdict: true, Ready: true, Between: true}},
		{name: "key too short to be one", input: greetingOf("pid+"), want: scanned{Verdict: true, Ready: true, Between: true}},
		{name: "starting up", input: failure("57P03"), want: scanned{Refused: "57P03", Verdict: true, Failed: true, Between: true}},
		{
			name:  "negotiation and notice come first",
			input: bytes.Join([][]byte{message('v', 0, 0, 0, 0, 0, 0, 0, 0), message('N', 0), failure("57P03")}, nil),
			want:  scanned{Refused: "57P03", Verdict: true, Failed: true, Between: true},
		},
		{name: "negotiation alone decides nothing", input: message('v', 0, 0, 0, 0, 0, 0, 0, 0), want: scanned{Between: true}},
		{
			name:  "failure after the password was asked for",
			input: append(message('R', 0, 0, 0, 3), failure("57P03")...),
			want:  scanned{Verdict: true, Failed: true, Between: true},
		},
		{name: "cut in a head", input: []byte("R\x00\x00"), want: scanned{}},
		{name: "cut in a body", input: message('R', 0, 0, 0, 0)[:7], want: scanned{Verdict: true}},
		{name: "refusal cut", input: failure("57P03")[:20], want: scanned{}},
		{name: "what follows is not looked at", input: append(greetingOf("pid+key1"), "garbage"...), want: scanned{Key: "pid+key1", Verdict: true, Ready: true, Between: true}},
		{name: "length 3", input: []byte("R\x00\x00\x00\x03xxxxx"), bad: true},
		{name: "length of 4 GiB", input: []byte("R\xff\xff\xff\xffxxxxx"), bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 3, 7, 1 << 20} {
				got, _, err := scanIn(tt.input, size)
				if (err != nil) != tt.bad {
					t.Fatalf("pieces of %d: error %v, want one: %t", size, err, tt.bad)
				}
				if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
					t.Errorf("pieces of %d (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

func FuzzServerMessages(f *testing.F) {
	f.Add(greetingOf("pid+key1"), byte(1))
	f.Add(refuse("57P03", "hint", "the database system is shutting down").encode(), byte(5))
	f.Add(append(message('v', 0, 0, 0, 0, 0, 0, 0, 0), greetingOf("pid+"+string(make([]byte, 256)))...), byte(200))
	f.Fuzz(func(t *testing.T, input []byte, size byte) {
		want, whole, wantErr := scanIn(input, len(input)+1)
		got, _, err := scanIn(input, int(size)+1)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("pieces of %d: error %v, whole: %v", int(size)+1, err, wantErr)
		}
		if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Fatalf("pieces of %d (-whole +pieces):\n%s", int(size)+1, diff)
		}
		if len(whole.body) > collectBytesMax || len(want.Key) > keyBytesMax {
			t.Fatalf("kept %d bytes, key of %d", len(whole.body), len(want.Key))
		}
		if (want.Refused != "") && !want.Verdict {
			t.Fatalf("refused without a verdict: %+v", want)
		}
	})
}
