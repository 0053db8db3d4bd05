package client_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
)

// TestEveryMethodAboutUpkeep drives each of those once.
func TestEveryMethodAboutUpkeep(t *testing.T) {
	b := apitest.New()
	c := start(t, b)
	ctx := t.Context()
	if _, err := c.CreateProject(ctx, api.CreateProject{Name: "demo"}); err != nil {
		t.Fatal(err)
	}
	for _, req := range []api.Collect{{}, {DryRun: true}} {
		want, _ := b.Collect(ctx, req)
		got, err := c.Collect(ctx, req)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("Collect(%+v): %v (-want +got):\n%s", req, err, diff)
		}
	}
	want, _ := b.Usage(ctx)
	got, err := c.Usage(ctx)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Usage: %v (-want +got):\n%s", err, diff)
	}
	history := "30d"
	if p, err := c.SetProject(ctx, "demo", api.SetProject{History: &history}); err != nil || p.History != history {
		t.Errorf("SetProject = %+v, %v", p, err)
	}
	if _, err := c.SetProject(ctx, "../x", api.SetProject{History: &history}); api.CodeOf(err) != api.CodeInvalidName {
		t.Errorf("SetProject of a bad name: %v", err)
	}
	if br, err := c.SetBranch(ctx, "demo", "main", api.SetBranch{History: &history}); err != nil || br.History != history {
		t.Errorf("SetBranch = %+v, %v", br, err)
	}
}
