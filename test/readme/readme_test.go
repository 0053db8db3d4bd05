package readme

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlocks(t *testing.T) {
	const doc = "# Title\n\n```sh\nmake run   # for ever\n```\n\n<!-- run -->\n\n```sh\necho one\n```\n" +
		"```text\n```sh inside text is text\n```\n\n<!-- run -->\n```sh\necho two\n```\n"
	got, err := Blocks(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := []Block{
		{Line: 4, Text: "make run   # for ever\n"},
		{Line: 10, Run: true, Text: "echo one\n"},
		{Line: 18, Run: true, Text: "echo two\n"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	out, err := exec.Command("bash", "-c", Script(got)).Output()
	if err != nil || string(out) != "one\ntwo\n" {
		t.Errorf("script: %q, %v", out, err)
	}
	if s := Script(got[:1]); s != "" {
		t.Errorf("script without marked blocks: %q", s)
	}
}

func TestScriptStopsAtFailure(t *testing.T) {
	script := Script([]Block{{Run: true, Text: "false\necho reached\n"}})
	out, err := exec.Command("bash", "-c", script).Output()
	if err == nil || len(out) > 0 {
		t.Errorf("script went on after a failure: %q, %v", out, err)
	}
}

func TestBlocksRefuses(t *testing.T) {
	for name, test := range map[string]struct{ doc, want string }{
		"no end":            {"```sh\necho\n", "does not end"},
		"marker at end":     {"text\n<!-- run -->\n", "line 2"},
		"marker, then text": {"<!-- run -->\ntext\n```sh\n```\n", "line 1"},
		"marker, no shell":  {"<!-- run -->\n```go\n```\n", "line 1"},
		"two markers":       {"<!-- run -->\n<!-- run -->\n```sh\n```\n", "line 1"},
	} {
		if _, err := Blocks(test.doc); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, test.want)
		}
	}
}
