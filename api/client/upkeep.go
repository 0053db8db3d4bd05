package client

import (
	"context"
	"net/http"

	"github.com/bough-db/bough/api"
)

// Collect removes from the store what nothing can reach any more, which takes as long
// as it takes.
func (c *Client) Collect(ctx context.Context, req api.Collect) (r api.Collected, err error) {
	return r, c.call(ctx, http.MethodPost, "/gc", req, &r)
}

// Usage measures what everything takes of the store.
func (c *Client) Usage(ctx context.Context) (u api.Usage, err error) {
	return u, c.call(ctx, http.MethodPost, "/usage", nil, &u)
}

// SetProject changes settings of a project.
func (c *Client) SetProject(ctx context.Context, name string, req api.SetProject) (p api.Project, err error) {
	path, err := projectPath(name)
	if err != nil {
		return p, err
	}
	return p, c.call(ctx, http.MethodPatch, path, req, &p)
}
