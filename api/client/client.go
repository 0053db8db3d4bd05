package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/bough-db/bough/api"
)

// Errors of a socket that does not lead to a daemon.
var (
	// ErrNoDaemon says that nothing answers at the socket.
	ErrNoDaemon = errors.New("no daemon")
	// ErrNotAllowed says that the caller may not open the socket.
	ErrNotAllowed = errors.New("no permission")
)

const (
	answerBytesMax = 64 << 20
	lineBytesMax   = 1 << 20
	dialTimeout    = 5 * time.Second
)

// Client talks to one daemon. Create it with [New].
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the daemon at the socket. It connects when first used.
func New(socket string) *Client {
	dialer := net.Dialer{Timeout: dialTimeout}
	return &Client{
		socket: socket,
		http: &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return dialer.DialContext(ctx, "unix", socket)
				},
				DisableCompression: true,
				MaxIdleConns:       4,
				IdleConnTimeout:    time.Minute,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Socket returns the path of the socket.
func (c *Client) Socket() string { return c.socket }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version says what runs.
func (c *Client) Version(ctx context.Context) (v api.Version, err error) {
	return v, c.call(ctx, http.MethodGet, "/version", nil, &v)
}

// Status says what the daemon does.
func (c *Client) Status(ctx context.Context) (s api.Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/status", nil, &s)
}

// Projects lists the projects, by name.
func (c *Client) Projects(ctx context.Context) ([]api.Project, error) {
	var l api.ProjectList
	err := c.call(ctx, http.MethodGet, "/projects", nil, &l)
	return l.Projects, err
}

// Project returns one project with its branches.
func (c *Client) Project(ctx context.Context, name string) (d api.ProjectDetail, err error) {
	path, err := projectPath(name)
	if err != nil {
		return d, err
	}
	return d, c.call(ctx, http.MethodGet, path, nil, &d)
}

// CreateProject makes a project.
func (c *Client) CreateProject(ctx context.Context, req api.CreateProject) (p api.CreatedProject, err error) {
	if err := api.CheckName("project", req.Name); err != nil {
		return p, err
	}
	return p, c.call(ctx, http.MethodPost, "/projects", req, &p)
}

// DeleteProject deletes a project with its branches.
func (c *Client) DeleteProject(ctx context.Context, name string) error {
	path, err := projectPath(name)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// Branches lists a project's branches, or those of all projects for "".
func (c *Client) Branches(ctx context.Context, project string) ([]api.Branch, error) {
	path := ""
	if project != "" {
		var err error
		if path, err = projectPath(project); err != nil {
			return nil, err
		}
	}
	var l api.BranchList
	err := c.call(ctx, http.MethodGet, path+"/branches", nil, &l)
	return l.Branches, err
}

// Branch returns one branch.
func (c *Client) Branch(ctx context.Context, project, name string) (b api.Branch, err error) {
	return b, c.branch(ctx, http.MethodGet, project, name, "", nil, &b)
}

// CreateBranch makes a branch.
func (c *Client) CreateBranch(ctx context.Context, project string, req api.CreateBranch) (b api.CreatedBranch, err error) {
	path, err := projectPath(project)
	if err != nil {
		return b, err
	}
	if err := api.CheckName("branch", req.Name); err != nil {
		return b, err
	}
	return b, c.call(ctx, http.MethodPost, path+"/branches", req, &b)
}

// RenameBranch gives a branch another name.
func (c *Client) RenameBranch(ctx context.Context, project, name, to string) (b api.Branch, err error) {
	if err := api.CheckName("branch", to); err != nil {
		return b, err
	}
	return b, c.branch(ctx, http.MethodPatch, project, name, "", api.RenameBranch{Name: to}, &b)
}

// SetBranch changes settings of a branch.
func (c *Client) SetBranch(ctx context.Context, project, name string, req api.SetBranch) (b api.Branch, err error) {
	return b, c.branch(ctx, http.MethodPatch, project, name, "/settings", req, &b)
}

// DeleteBranch deletes a branch.
func (c *Client) DeleteBranch(ctx context.Context, project, name string) error {
	return c.branch(ctx, http.MethodDelete, project, name, "", nil, nil)
}

// Start starts a branch's Postgres.
func (c *Client) Start(ctx context.Context, project, branch string, req api.StartBranch) (b api.StartedBranch, err error) {
	return b, c.branch(ctx, http.MethodPost, project, branch, "/start", req, &b)
}

// Suspend stops a branch's Postgres.
func (c *Client) Suspend(ctx context.Context, project, branch string) (b api.Branch, err error) {
	return b, c.branch(ctx, http.MethodPost, project, branch, "/suspend", nil, &b)
}

// Connection says how to connect to a branch.
func (c *Client) Connection(ctx context.Context, project, branch string) (conn api.Connection, err error) {
	return conn, c.branch(ctx, http.MethodGet, project, branch, "/connection", nil, &conn)
}

// Attach attaches a branch as a block device and mounts it.
func (c *Client) Attach(ctx context.Context, project, branch string, req api.AttachBranch) (a api.Attachment, err error) {
	return a, c.branch(ctx, http.MethodPost, project, branch, "/attach", req, &a)
}

// Detach undoes Attach.
func (c *Client) Detach(ctx context.Context, project, branch string) error {
	return c.branch(ctx, http.MethodPost, project, branch, "/detach", nil, nil)
}

// Verify checks what is stored and calls on with each progress and problem.
func (c *Client) Verify(ctx context.Context, scope api.VerifyScope, on func(api.VerifyEvent)) (api.VerifyResult, error) {
	resp, err := c.do(ctx, http.MethodPost, "/verify", scope)
	if err != nil {
		return api.VerifyResult{}, err
	}
	defer resp.Body.Close()
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, lineBytesMax)
	for scan.Scan() {
		var ev api.VerifyEvent
		if err := json.Unmarshal(scan.Bytes(), &ev); err != nil {
			return api.VerifyResult{}, fmt.Errorf("decode answer of %s: %w", c.socket, err)
		}
		switch {
		case ev.Result != nil:
			return *ev.Result, nil
		case ev.Error != nil:
			return api.VerifyResult{}, ev.Error
		default:
			on(ev)
		}
	}
	if err := scan.Err(); err != nil {
		return api.VerifyResult{}, fmt.Errorf("read answer of %s: %w", c.socket, err)
	}
	return api.VerifyResult{}, fmt.Errorf("read answer of %s: the daemon stopped before the check ended: %w", c.socket, io.ErrUnexpectedEOF)
}

func projectPath(name string) (string, error) {
	if err := api.CheckName("project", name); err != nil {
		return "", err
	}
	return "/projects/" + url.PathEscape(name), nil
}

// branch calls a route below a branch.
func (c *Client) branch(ctx context.Context, method, project, name, suffix string, req, resp any) error {
	path, err := projectPath(project)
	if err != nil {
		return err
	}
	if err := api.CheckName("branch", name); err != nil {
		return err
	}
	return c.call(ctx, method, path+"/branches/"+url.PathEscape(name)+suffix, req, resp)
}

// call sends req, when there is one, and decodes the answer into resp, when
// one is wanted.
func (c *Client) call(ctx context.Context, method, path string, req, resp any) error {
	r, err := c.do(ctx, method, path, req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if resp == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, answerBytesMax)).Decode(resp); err != nil {
		return fmt.Errorf("decode answer of %s: %w", c.socket, err)
	}
	return nil
}

// do returns a successful response, whose body the caller closes.
func (c *Client) do(ctx context.Context, method, path string, req any) (*http.Response, error) {
	var body io.Reader
	if req != nil {
		p, err := json.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(p)
	}
	// The host is for show: the transport dials the socket.
	hr, err := http.NewRequestWithContext(ctx, method, "http://bough/bough/v1"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if req != nil {
		hr.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(hr)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var eb api.ErrorBody
	if err := json.NewDecoder(io.LimitReader(resp.Body, lineBytesMax)).Decode(&eb); err != nil || eb.Error == nil {
		return nil, fmt.Errorf("%s answered %s: is it a bough daemon?", c.socket, resp.Status)
	}
	return nil, eb.Error
}

// transportError says what a failed request means for the person who sent it.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the method and the URL say nothing to a person
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w at %s: start one with `bough serve`, or name its socket with --socket or BOUGH_SOCKET", ErrNoDaemon, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w to use %s: run the command as root or as the daemon's user", ErrNotAllowed, c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the daemon at %s went away while it worked: see its log", c.socket)
	default:
		return fmt.Errorf("talk to the daemon at %s: %w", c.socket, err)
	}
}
