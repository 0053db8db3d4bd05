package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stream is a connection made of what the client sends and what it gets.
type stream struct {
	io.Reader
	io.Writer
}

func TestReadRequest(t *testing.T) {
	start := startupOf(version30, "user", "app")
	ssl, gss := packetOf(codeSSLRequest), packetOf(codeGSSENCRequest)
	longest := startupOf(version30, "user", strings.Repeat("u", packetBytesMax-4-len("user")-3))
	for _, tt := range []struct {
		name    string
		input   []byte
		answers string
		code    string // of the refusal, or "end" for one without words
		left    int
	}{
		{name: "startup", input: start},
		{name: "startup with more behind it", input: append(bytes.Clone(start), "more"...), left: 4},
		{name: "minor version 2", input: startupOf(3<<16|2, "user", "app")},
		{name: "minor version 9999", input: startupOf(3<<16|9999, "user", "app", "_pq_.x", "1")},
		{name: "tls, then clear", input: append(bytes.Clone(ssl), start...), answers: "N"},
		{name: "gss, then clear", input: append(bytes.Clone(gss), start...), answers: "N"},
		{name: "both, then clear", input: bytes.Join([][]byte{gss, ssl, start}, nil), answers: "NN"},
		{name: "tls twice", input: bytes.Join([][]byte{ssl, ssl, start}, nil), answers: "N", code: codeUnsupported, left: len(start)},
		{name: "cancel, 4-byte key", input: packetOf(codeCancelRequest, 0, 0, 0, 1, 2, 3, 4, 5)},
		{name: "cancel, 256-byte key", input: packetOf(codeCancelRequest, make([]byte, 260)...)},
		{name: "cancel without key", input: packetOf(codeCancelRequest, 0, 0, 0, 1), code: "end"},
		{name: "version 2", input: packetOf(2 << 16), code: codeUnsupported},
		{name: "version 4", input: packetOf(4<<16, 0), code: codeUnsupported},
		{name: "http", input: []byte("GET / HTTP/1.1\r\n\r\n"), code: codeProtocol, left: 14},
		{name: "tls without asking", input: []byte{0x16, 3, 1, 0, 200, 1, 0, 0}, code: codeProtocol, left: 4},
		{name: "length 0", input: make([]byte, 8), code: codeProtocol, left: 4},
		{name: "length 7", input: []byte{0, 0, 0, 7, 0, 3, 0}, code: codeProtocol, left: 3},
		{name: "longest", input: longest},
		{name: "too long", input: startupOf(version30, "user", strings.Repeat("u", packetBytesMax)), code: codeProtocol, left: packetBytesMax + 11},
		{name: "cut in the length", input: start[:3], code: "end"},
		{name: "cut in the body", input: start[:len(start)-1], code: "end"},
		{name: "nothing", code: "end"},
		{name: "no terminator", input: packetOf(version30, []byte("user\x00app\x00")...), code: codeProtocol},
		{name: "name without value", input: packetOf(version30, []byte("user\x00")...), code: codeProtocol},
		{name: "bytes after the terminator", input: packetOf(version30, []byte("user\x00app\x00\x00x")...), code: codeProtocol},
		{name: "no parameters at all", input: packetOf(version30), code: codeProtocol},
		{name: "user twice", input: startupOf(version30, "user", "app", "user", "postgres"), code: codeProtocol},
		{name: "database twice", input: startupOf(version30, "database", "", "database", "x"), code: codeProtocol},
		{name: "another parameter twice", input: startupOf(version30, "application_name", "a", "application_name", "b")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := bytes.NewReader(tt.input)
			var out bytes.Buffer
			req, err := readRequest(stream{in, &out})
			code := ""
			var refusal *Error
			if errors.As(err, &refusal) {
				code = refusal.Code
			} else if err != nil {
				code = "end"
			}
			if code != tt.code || out.String() != tt.answers || in.Len() != tt.left {
				t.Fatalf("error %v, answers %q, %d bytes left; want %q, %q, %d", err, &out, in.Len(), tt.code, tt.answers, tt.left)
			}
			if err == nil && (req.startup == nil) == (req.cancel == nil) {
				t.Errorf("request is %+v, want one kind", req)
			}
		})
	}
}

func TestStartupUser(t *testing.T) {
	for _, tt := range []struct{ name, user, want string }{
		{"short", "app", "app"},
		{"as long as Postgres reads", strings.Repeat("u", 63), strings.Repeat("u", 63)},
		{"longer: Postgres cuts it", strings.Repeat("u", 64), strings.Repeat("u", 63)},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := &startup{params: []param{{"user", tt.user}}}
			got, err := st.user()
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("user() = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestTakeRoute(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     []string
		route  string
		passed []string
		code   string
	}{
		{name: "database", in: []string{"user", "u", "database", "app@demo/dev"}, route: "demo/dev", passed: []string{"user", "u", "database", "app"}},
		{name: "project alone", in: []string{"user", "u", "database", "app@demo"}, route: "demo/main", passed: []string{"user", "u", "database", "app"}},
		{name: "last at sign", in: []string{"user", "u", "database", "a@b@demo"}, route: "demo/main", passed: []string{"user", "u", "database", "a@b"}},
		{name: "no database name", in: []string{"database", "@demo/dev", "user", "u"}, route: "demo/dev", passed: []string{"user", "u"}},
		{
			name:  "options",
			in:    []string{"user", "u", "database", "app", "options", "-c branch=demo/dev", "application_name", "x"},
			route: "demo/dev", passed: []string{"user", "u", "database", "app", "application_name", "x"},
		},
		{
			name:  "options, no database",
			in:    []string{"user", "u", "options", "--branch=demo -c a=b"},
			route: "demo/main", passed: []string{"user", "u", "options", "-c a=b"},
		},
		{
			name:  "both agree",
			in:    []string{"user", "u", "database", "app@demo", "options", "branch=demo/main"},
			route: "demo/main", passed: []string{"user", "u", "database", "app"},
		},
		{name: "both disagree", in: []string{"user", "u", "database", "app@demo/a", "options", "branch=demo/b"}, code: codeUnknownBranch},
		{
			name:  "database is the user's default",
			in:    []string{"user", "me@corp.com", "database", "me@corp.com", "options", "branch=demo"},
			route: "demo/main", passed: []string{"user", "me@corp.com", "database", "me@corp.com"},
		},
		{
			name:  "other parameters untouched",
			in:    []string{"_pq_.x", "@y", "replication", "true", "user", "u", "database", "app@demo/dev"},
			route: "demo/dev", passed: []string{"_pq_.x", "@y", "replication", "true", "user", "u", "database", "app"},
		},
		{name: "none", in: []string{"user", "u", "database", "app"}, code: codeUnknownBranch},
		{name: "none at all", in: []string{"user", "u"}, code: codeUnknownBranch},
		{name: "empty project", in: []string{"user", "u", "database", "app@"}, code: codeUnknownBranch},
		{name: "empty branch", in: []string{"user", "u", "database", "app@demo/"}, code: codeUnknownBranch},
		{name: "slash in the branch", in: []string{"user", "u", "database", "app@demo/a/b"}, code: codeUnknownBranch},
		{name: "upper case", in: []string{"user", "u", "database", "app@Demo"}, code: codeUnknownBranch},
		{name: "dots", in: []string{"user", "u", "database", "app@../x"}, code: codeUnknownBranch},
		{name: "two dots inside", in: []string{"user", "u", "database", "app@a..b"}, code: codeUnknownBranch},
		{name: "300 bytes", in: []string{"user", "u", "database", "app@" + strings.Repeat("x", 300)}, code: codeUnknownBranch},
		{name: "bad name in options", in: []string{"user", "u", "options", "branch=../x"}, code: codeUnknownBranch},
		{name: "bad name in options, good in database", in: []string{"user", "u", "database", "a@demo", "options", "branch=../x"}, code: codeUnknownBranch},
		{name: "option without value", in: []string{"user", "u", "options", "-c branch"}, code: codeSyntax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, err := parseStartup(startupOf(version30, tt.in...))
			if err != nil {
				t.Fatal(err)
			}
			r, err := takeRoute(st)
			var refusal *Error
			if errors.As(err, &refusal); err != nil || tt.code != "" {
				if refusal == nil || refusal.Code != tt.code || refusal.Hint == "" {
					t.Fatalf("error %+v, want code %q and a hint", err, tt.code)
				}
				return
			}
			if r.String() != tt.route {
				t.Errorf("route %q, want %q", r, tt.route)
			}
			if diff := cmp.Diff(startupOf(version30, tt.passed...), st.encode()); diff != "" {
				t.Errorf("passed on (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorEncoding(t *testing.T) {
	hostile := "a\x00b\nc\x1b[31m\xffd" + strings.Repeat("x", 5000)
	p := (&Error{Code: "3D000", Message: hostile, Hint: hostile}).encode()
	if got, want := int(binary.BigEndian.Uint32(p[1:])), len(p)-1; got != want {
		t.Errorf("length is %d, want %d", got, want)
	}
	if len(p) > 4*messageBytesMax {
		t.Errorf("answer has %d bytes", len(p))
	}
	if got := errorCode(p[5:]); got != "3D000" {
		t.Errorf("code is %q", got)
	}
	if !bytes.Contains(p, []byte("Ma b c [31m?dxxx")) {
		t.Errorf("message not cleaned: %q", p[:60])
	}
}

func FuzzStartup(f *testing.F) {
	f.Add(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	f.Add(startupOf(3<<16|9999, "user", "app", "options", `-c branch=demo -c a=b\ c`, "_pq_.x", ""))
	f.Add(append(packetOf(codeSSLRequest), startupOf(version30, "user", "app")...))
	f.Add(append(packetOf(codeGSSENCRequest), packetOf(codeCancelRequest, 0, 0, 0, 1, 2, 3, 4, 5)...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		in := bytes.NewReader(input)
		var out bytes.Buffer
		req, err := readRequest(stream{in, &out})
		if out.Len() > 2 {
			t.Fatalf("answered %q", &out)
		}
		if err != nil {
			return
		}
		used := input[8*out.Len() : len(input)-in.Len()]
		if req.cancel != nil {
			if !bytes.Equal(req.cancel.raw, used) || req.cancel.key != string(used[8:]) || req.cancel.key == "" {
				t.Fatalf("cancel request %q read as %+v", used, req.cancel)
			}
			return
		}
		st := req.startup
		if !bytes.Equal(st.encode(), used) {
			t.Fatalf("startup %q encodes as %q", used, st.encode())
		}
		user, userErr := st.user()
		r, err := takeRoute(st)
		if err != nil {
			return
		}
		if !validName(r.project) || !validName(r.branch) {
			t.Fatalf("route %q", r)
		}
		packet := st.encode()
		if len(packet) > len(used) {
			t.Fatalf("packet grew from %d to %d bytes", len(used), len(packet))
		}
		again, err := parseStartup(packet)
		if err != nil {
			t.Fatalf("passed on %q: %v", packet, err)
		}
		if u, err := again.user(); u != user || (err == nil) != (userErr == nil) {
			t.Fatalf("user %q passed on as %q", user, u)
		}
		options, _ := again.get("options")
		if v, _, err := takeBranchOption(options); v != "" || err != nil {
			t.Fatalf("options passed on still name a branch: %q", options)
		}
	})
}
