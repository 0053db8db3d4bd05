package api_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
)

func FuzzParseBranch(f *testing.F) {
	for _, s := range []string{"demo", "demo/dev", "../x", "a..b", "/", "a/b/c", "A", "a.", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		project, branch, err := api.ParseBranch(ref)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("ParseBranch(%q): the message is not one plain line: %q", ref, err)
			}
			return
		}
		for _, name := range []string{project, branch} {
			if err := api.CheckName("branch", name); err != nil || len(name) > api.NameBytesMax || strings.Contains(name, "..") {
				t.Errorf("ParseBranch(%q) let %q through: %v", ref, name, err)
			}
		}
		if p, b, err := api.ParseBranch(project + "/" + branch); p != project || b != branch || err != nil {
			t.Errorf("ParseBranch(%q) does not come back: %q, %q, %v", project+"/"+branch, p, b, err)
		}
	})
}

// FuzzRequest sends a body to every route that takes one: the answer is always
// a success or an error in the right shape, and only a success changes anything.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"name":"x"}`, `{"name":"x","size_bytes":4096}`, `{}`, ``, `null`, `[]`, `{"name":"x"}{}`, `{"mountpoint":"/m"}`} {
		for route := range byte(7) {
			f.Add(route, []byte(s))
		}
	}
	routes := [][2]string{
		{"POST", "/bough/v1/projects"},
		{"POST", "/bough/v1/projects/demo/branches"},
		{"PATCH", "/bough/v1/projects/demo/branches/main"},
		{"POST", "/bough/v1/projects/demo/branches/main/attach"},
		{"POST", "/bough/v1/verify"},
		{"POST", "/bough/v1/gc"},
		{"PATCH", "/bough/v1/projects/demo"},
	}
	f.Fuzz(func(t *testing.T, route byte, body []byte) {
		b := apitest.New()
		if _, err := b.CreateProject(t.Context(), api.CreateProject{Name: "demo"}); err != nil {
			t.Fatal(err)
		}
		r := routes[int(route)%len(routes)]
		// Without a socket: goroutines would make the coverage look random.
		req := httptest.NewRequestWithContext(api.WithPeer(t.Context(), 0), r[0], r[1], bytes.NewReader(body))
		rec := httptest.NewRecorder()
		api.NewServer(b, api.Options{}).ServeHTTP(rec, req)
		resp := rec.Result()
		if resp.StatusCode/100 == 2 {
			return
		}
		var eb api.ErrorBody
		if err := json.NewDecoder(resp.Body).Decode(&eb); err != nil || eb.Error == nil || eb.Error.Code.Status() != resp.StatusCode {
			t.Errorf("%v %q: answer %d is not in the shape of errors: %+v, %v", r, body, resp.StatusCode, eb.Error, err)
		}
		if resp.StatusCode >= 500 {
			t.Errorf("%v %q: answer %d %v", r, body, resp.StatusCode, eb.Error)
		}
	})
}
