package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bough-db/bough/test/readme"
)

// TestReadme starts a daemon as `make run` does, types what the documents tell
// their readers to type, and compares what they promise.
func TestReadme(t *testing.T) {
	t.Parallel()
	h := newHost(t, "--create", "demo")
	h.start()
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	// The program under test, not the one that may be in the tree.
	root := filepath.Join(h.dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(h.bin, filepath.Join(root, "bin", "bough")); err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{}
	for _, doc := range append([]string{"../../README.md"}, docs...) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := readme.Blocks(string(text))
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		script := readme.Script(blocks)
		if script == "" {
			continue
		}
		cmd := exec.Command("bash", "-c", script)
		cmd.Dir = root
		cmd.Env = append(environ(), "BOUGH_SOCKET="+h.socket)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v:\n%s", doc, err, out)
		}
		outputs[filepath.Base(doc)] = string(out)
	}
	// "The branch has lost its rows, demo still counts 1000."
	out := outputs["README.md"]
	for _, want := range []string{"SELECT 1000", "DELETE 1000", "\n1000\n", "dev", "|0\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("README.md: no %q in:\n%s", want, out)
		}
	}
	if want := fmt.Sprint(1000); strings.TrimSpace(h.bough("psql", "demo", "--", "-Atc", "select count(*) from t")) != want {
		t.Errorf("demo no longer counts %s", want)
	}
}
