package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTakeBranchOption(t *testing.T) {
	for _, tt := range []struct {
		name, options, value, rest string
		bad                        bool
	}{
		{name: "nothing"},
		{name: "others only", options: " -c  work_mem=1MB\t", rest: " -c  work_mem=1MB\t"},
		{name: "bare", options: "branch=demo/dev", value: "demo/dev"},
		{name: "-c", options: "-c branch=demo/dev", value: "demo/dev"},
		{name: "-c joined", options: "-cbranch=demo/dev", value: "demo/dev"},
		{name: "long", options: "--branch=demo/dev", value: "demo/dev"},
		{name: "any case", options: "-c Branch=demo", value: "demo"},
		{name: "spaces only are left", options: "  -c branch=demo ", value: "demo"},
		{name: "first of two", options: "-c branch=demo -c work_mem=1MB", value: "demo", rest: "-c work_mem=1MB"},
		{name: "last of two", options: "--work_mem=1MB  branch=demo", value: "demo", rest: "--work_mem=1MB  "},
		{name: "between", options: "-c a=1 -c branch=x -c b=2", value: "x", rest: "-c a=1 -c b=2"},
		{name: "twice the same", options: "branch=x --branch=x -e", value: "x", rest: "-e"},
		{name: "twice different", options: "branch=x --branch=y", bad: true},
		{name: "escapes kept", options: `-c a=x\ y\\\-z branch=x -c b=\ `, value: "x", rest: `-c a=x\ y\\\-z -c b=\ `},
		{name: "escapes in ours", options: `-c bra\nch=de\mo`, value: "demo"},
		{name: "escaped space is no cut", options: `-c a=b\ branch=x`, rest: `-c a=b\ branch=x`},
		{name: "escaped space in ours", options: `branch=a\ b`, value: "a b"},
		{name: "backslash at the end", options: `branch=x -c a=b\`, value: "x", rest: `-c a=b\`},
		{name: "value of another switch", options: "-B branch=x", rest: "-B branch=x"},
		{name: "joined value of another switch", options: "-fbranch=x", rest: "-fbranch=x"},
		{name: "bundled", options: "-ec branch=x -s", value: "x", rest: "-e -s"},
		{name: "bundled and joined", options: "-ecbranch=x", value: "x", rest: "-e "},
		{name: "name begins alike", options: "-c branches=x branch.a=y", rest: "-c branches=x branch.a=y"},
		{name: "value has an equals sign", options: "branch=a=b", value: "a=b"},
		{name: "bare name", options: "branch", rest: "branch"},
		{name: "after the end of switches", options: "-- branch=x", rest: "-- branch=x"},
		{name: "switch at the end", options: "branch=x -c", value: "x", rest: "-c"},
		{name: "no value", options: "-c branch", bad: true},
		{name: "no value, long", options: "--branch", bad: true},
		{name: "empty value", options: "branch=", bad: true},
		{name: "a lone dash", options: "- branch=x", value: "x", rest: "- "},
		{name: "all kinds of space", options: "-e\n\v\f\r\tbranch=x", value: "x", rest: "-e\n\v\f\r\t"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			value, rest, err := takeBranchOption(tt.options)
			if (err != nil) != tt.bad {
				t.Fatalf("takeBranchOption(%q): error %v, want one: %t", tt.options, err, tt.bad)
			}
			if value != tt.value || rest != tt.rest {
				t.Errorf("takeBranchOption(%q) = %q, %q; want %q, %q", tt.options, value, rest, tt.value, tt.rest)
			}
		})
	}
}

// getopt is a second reading of options, as Postgres does it (pg_split_opts,
// then getopt): the switches with their values, and bare words, in order.
func getopt(options string) (settings []string) {
	var args []string
	for _, w := range splitOptions(options) {
		args = append(args, w.text)
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(append(settings, "--"), args...)
		case len(arg) < 2 || arg[0] != '-':
			settings = append(settings, arg)
			continue
		}
		for arg = arg[1:]; arg != ""; {
			c := arg[:1]
			if arg = arg[1:]; !strings.Contains("BCcDdfhkNprStvW-", c) {
				settings = append(settings, "-"+c)
				continue
			}
			if arg == "" && len(args) > 0 {
				arg, args = args[0], args[1:]
			}
			if c == "-" {
				c = "c"
			}
			settings = append(settings, "-"+c+" "+arg)
			arg = ""
		}
	}
	return settings
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{
		"", "branch=demo/dev", "-c branch=demo/dev -c work_mem=1MB", `--branch=a\ b -e`, "-ecbranch=x", `-c a=b\ branch=x \`, "-- branch=x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, options string) {
		value, rest, err := takeBranchOption(options)
		if err != nil {
			return
		}
		if value == "" && rest != options {
			t.Fatalf("no branch in %q, but what is left is %q", options, rest)
		}
		var want []string
		found := false
		before := getopt(options)
		for i, s := range before {
			if s == "--" {
				want = append(want, before[i:]...)
				break
			}
			name, v, ok := strings.Cut(strings.TrimPrefix(s, "-c "), "=")
			if ok && strings.EqualFold(name, "branch") {
				if found = true; v != value {
					t.Fatalf("branch in %q is %q, want %q", options, value, v)
				}
				continue
			}
			want = append(want, s)
		}
		if found != (value != "") {
			t.Fatalf("branch in %q is %q; there is one: %t", options, value, found)
		}
		if diff := cmp.Diff(want, getopt(rest)); diff != "" {
			t.Fatalf("Postgres would read %q, left of %q, otherwise (-want +got):\n%s", rest, options, diff)
		}
	})
}
