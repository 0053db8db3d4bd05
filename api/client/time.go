package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/bough-db/bough/api"
)

// Log returns barriers of a branch's history.
func (c *Client) Log(ctx context.Context, project, branch string, q api.LogQuery) (page api.LogPage, err error) {
	suffix := "/log"
	if params := q.Encode(); params != "" {
		suffix += "?" + params
	}
	return page, c.branch(ctx, http.MethodGet, project, branch, suffix, nil, &page)
}

// Snapshots lists a branch's snapshots, by name.
func (c *Client) Snapshots(ctx context.Context, project, branch string) ([]api.Snapshot, error) {
	var l api.SnapshotList
	err := c.branch(ctx, http.MethodGet, project, branch, "/snapshots", nil, &l)
	return l.Snapshots, err
}

// CreateSnapshot gives a name to a barrier.
func (c *Client) CreateSnapshot(ctx context.Context, project, branch string, req api.CreateSnapshot) (s api.Snapshot, err error) {
	if err := api.CheckName("snapshot", req.Name); err != nil {
		return s, err
	}
	return s, c.branch(ctx, http.MethodPost, project, branch, "/snapshots", req, &s)
}

// DeleteSnapshot takes a snapshot's name away.
func (c *Client) DeleteSnapshot(ctx context.Context, project, branch, name string) error {
	if err := api.CheckName("snapshot", name); err != nil {
		return err
	}
	return c.branch(ctx, http.MethodDelete, project, branch, "/snapshots/"+url.PathEscape(name), nil, nil)
}

// RestoreBranch makes a branch begin anew at a point.
func (c *Client) RestoreBranch(ctx context.Context, project, branch string, req api.RestoreBranch) (r api.RestoredBranch, err error) {
	return r, c.branch(ctx, http.MethodPost, project, branch, "/restore", req, &r)
}

// Deleted lists a project's deleted branches that can come back.
func (c *Client) Deleted(ctx context.Context, project string) ([]api.DeletedBranch, error) {
	path, err := projectPath(project)
	if err != nil {
		return nil, err
	}
	var l api.DeletedList
	err = c.call(ctx, http.MethodGet, path+"/deleted", nil, &l)
	return l.Branches, err
}

// UndeleteBranch brings a deleted branch back, which is named by its name or its id.
func (c *Client) UndeleteBranch(ctx context.Context, project, name string, req api.UndeleteBranch) (b api.Branch, err error) {
	path, err := projectPath(project)
	if err != nil {
		return b, err
	}
	if err := api.CheckName("branch", name); err != nil {
		return b, err
	}
	return b, c.call(ctx, http.MethodPost, path+"/deleted/"+url.PathEscape(name)+"/undelete", req, &b)
}

// Throwaway makes a branch for one use, which the daemon deletes when release is
// called, ctx ends, or this process does.
func (c *Client) Throwaway(ctx context.Context, project, branch string, req api.ThrowawayBranch) (b api.CreatedBranch, release func(), err error) {
	path, err := projectPath(project)
	if err != nil {
		return b, nil, err
	}
	if err := api.CheckName("branch", branch); err != nil {
		return b, nil, err
	}
	resp, err := c.do(ctx, http.MethodPost, path+"/branches/"+url.PathEscape(branch)+"/throwaway", req)
	if err != nil {
		return b, nil, err
	}
	release = func() { resp.Body.Close() }
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, lineBytesMax)
	if !scan.Scan() {
		release()
		return b, nil, fmt.Errorf("read answer of %s: it ended before the branch was there: %w", c.socket, cmp.Or(scan.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(scan.Bytes(), &b); err != nil {
		release()
		return b, nil, fmt.Errorf("decode answer of %s: %w", c.socket, err)
	}
	return b, release, nil
}
