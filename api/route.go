package api

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"strings"
	"time"
)

func splitPath(p string) []string { return strings.Split(p, "/") }

// routes returns the mux with every route of the package documentation.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	b := s.backend
	const root, project, branch = "/bough/v1", "/bough/v1/projects/{project}", "/bough/v1/projects/{project}/branches/{branch}"

	mux.HandleFunc("GET "+root+"/version", read(s, func(context.Context, *http.Request) (Version, error) {
		return b.Version(), nil
	}))
	mux.HandleFunc("GET "+root+"/status", read(s, func(ctx context.Context, _ *http.Request) (Status, error) {
		return b.Status(ctx)
	}))
	mux.HandleFunc("POST "+root+"/verify", s.verify)

	mux.HandleFunc("GET "+root+"/projects", read(s, func(ctx context.Context, _ *http.Request) (ProjectList, error) {
		ps, err := b.ListProjects(ctx)
		return ProjectList{Projects: nonNil(ps)}, err
	}))
	mux.HandleFunc("POST "+root+"/projects", change(s, http.StatusCreated, func(ctx context.Context, _ *http.Request, req CreateProject) (CreatedProject, error) {
		if err := checkCreateProject(req); err != nil {
			return CreatedProject{}, err
		}
		return b.CreateProject(ctx, req)
	}))
	mux.HandleFunc("GET "+project, read(s, func(ctx context.Context, r *http.Request) (ProjectDetail, error) {
		d, err := b.Project(ctx, r.PathValue("project"))
		d.Branches = nonNil(d.Branches)
		return d, err
	}))
	mux.HandleFunc("PATCH "+project, change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req SetProject) (Project, error) {
		if req == (SetProject{}) {
			return Project{}, Errorf(CodeInvalidRequest, "no setting is given").WithHint("give history")
		}
		return b.SetProject(ctx, r.PathValue("project"), req)
	}))
	mux.HandleFunc("DELETE "+project, change(s, http.StatusNoContent, func(ctx context.Context, r *http.Request, _ struct{}) (struct{}, error) {
		return struct{}{}, b.DeleteProject(ctx, r.PathValue("project"))
	}))

	mux.HandleFunc("GET "+root+"/branches", read(s, func(ctx context.Context, _ *http.Request) (BranchList, error) {
		bs, err := b.ListBranches(ctx, "")
		return BranchList{Branches: nonNil(bs)}, err
	}))
	mux.HandleFunc("GET "+project+"/branches", read(s, func(ctx context.Context, r *http.Request) (BranchList, error) {
		bs, err := b.ListBranches(ctx, r.PathValue("project"))
		return BranchList{Branches: nonNil(bs)}, err
	}))
	mux.HandleFunc("POST "+project+"/branches", change(s, http.StatusCreated, func(ctx context.Context, r *http.Request, req CreateBranch) (CreatedBranch, error) {
		if err := CheckName("branch", req.Name); err != nil {
			return CreatedBranch{}, err
		}
		if req.From == "" {
			req.From = MainBranch
		}
		if err := errors.Join(CheckName("branch", req.From), CheckDurability(req.Durability), CheckPoint(req.At)); err != nil {
			return CreatedBranch{}, err
		}
		return b.CreateBranch(ctx, r.PathValue("project"), req)
	}))
	mux.HandleFunc("GET "+branch, read(s, func(ctx context.Context, r *http.Request) (Branch, error) {
		return b.Branch(ctx, r.PathValue("project"), r.PathValue("branch"))
	}))
	mux.HandleFunc("PATCH "+branch, change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req RenameBranch) (Branch, error) {
		if err := CheckName("branch", req.Name); err != nil {
			return Branch{}, err
		}
		return b.RenameBranch(ctx, r.PathValue("project"), r.PathValue("branch"), req.Name)
	}))
	mux.HandleFunc("PATCH "+branch+"/settings", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req SetBranch) (Branch, error) {
		if err := checkSetBranch(req); err != nil {
			return Branch{}, err
		}
		return b.SetBranch(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
	mux.HandleFunc("DELETE "+branch, change(s, http.StatusNoContent, func(ctx context.Context, r *http.Request, _ struct{}) (struct{}, error) {
		return struct{}{}, b.DeleteBranch(ctx, r.PathValue("project"), r.PathValue("branch"))
	}))

	mux.HandleFunc("POST "+branch+"/start", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req StartBranch) (StartedBranch, error) {
		return b.Start(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
	mux.HandleFunc("POST "+branch+"/suspend", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, _ struct{}) (Branch, error) {
		return b.Suspend(ctx, r.PathValue("project"), r.PathValue("branch"))
	}))
	mux.HandleFunc("GET "+branch+"/connection", read(s, func(ctx context.Context, r *http.Request) (Connection, error) {
		return b.Connection(ctx, r.PathValue("project"), r.PathValue("branch"))
	}))
	mux.HandleFunc("POST "+branch+"/attach", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req AttachBranch) (Attachment, error) {
		if m := req.Mountpoint; m != "" && (!filepath.IsAbs(m) || filepath.Clean(m) != m || strings.ContainsRune(m, 0)) {
			return Attachment{}, Errorf(CodeInvalidRequest, "mount point %s is not a clean absolute path", quoteShort(m))
		}
		if err := CheckPoint(req.At); err != nil {
			return Attachment{}, err
		}
		return b.Attach(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
	mux.HandleFunc("POST "+branch+"/detach", change(s, http.StatusNoContent, func(ctx context.Context, r *http.Request, _ struct{}) (struct{}, error) {
		return struct{}{}, b.Detach(ctx, r.PathValue("project"), r.PathValue("branch"))
	}))

	s.timeRoutes(mux, project, branch)
	s.upkeepRoutes(mux, root)

	mux.HandleFunc("GET /metrics", b.Metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /debug/vars", expvar.Handler())
	return mux
}

// checkCreateProject checks what the grammar and arithmetic can.
func checkCreateProject(req CreateProject) error {
	if err := CheckName("project", req.Name); err != nil {
		return err
	}
	if req.SizeBytes < 0 || req.SizeBytes%4096 != 0 {
		return Errorf(CodeInvalidRequest, "size_bytes %d is not a positive multiple of 4096", req.SizeBytes)
	}
	if req.PGVersion < 0 {
		return Errorf(CodeInvalidRequest, "pg_version %d is not a Postgres version", req.PGVersion).WithHint("give a major version, such as 15")
	}
	return CheckDurability(req.Durability)
}

func checkSetBranch(req SetBranch) error {
	if req == (SetBranch{}) {
		return Errorf(CodeInvalidRequest, "no setting is given").WithHint("give durability, protected, expires or history")
	}
	return CheckDurability(req.Durability)
}

// read makes a handler of a request that has no body and changes nothing: it
// is cancelled when the client hangs up.
func read[Resp any](s *Server, fn func(context.Context, *http.Request) (Resp, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.opts.ReadTimeout)
		defer cancel()
		if err := checkPathNames(r); err != nil {
			s.fail(w, r, err)
			return
		}
		resp, err := fn(ctx, r)
		if err != nil {
			s.fail(w, r, timeoutError(ctx, err))
			return
		}
		writeJSON(w, http.StatusOK, resp)
	}
}

// change makes a handler of a request that changes something: it runs to its
// end even when the client hangs up.
func change[Req, Resp any](s *Server, status int, fn func(context.Context, *http.Request, Req) (Resp, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(s.base, s.opts.ChangeTimeout)
		defer cancel()
		var req Req
		if err := errors.Join(checkPathNames(r), decodeBody(w, r, &req)); err != nil {
			s.fail(w, r, err)
			return
		}
		start := time.Now()
		resp, err := fn(ctx, r, req)
		if err != nil {
			s.fail(w, r, timeoutError(ctx, err))
			return
		}
		s.log.Info("request", "method", r.Method, "path", r.URL.Path, "took", time.Since(start).Round(time.Microsecond))
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, resp)
	}
}

// checkPathNames checks the names that the path carries.
func checkPathNames(r *http.Request) error {
	for _, kind := range []string{"project", "branch", "snapshot"} {
		if !strings.Contains(r.Pattern, "{"+kind+"}") {
			continue
		}
		if err := CheckName(kind, r.PathValue(kind)); err != nil {
			return err
		}
	}
	return nil
}

// decodeBody decodes one JSON object into req; an empty body leaves it as it is.
func decodeBody(w http.ResponseWriter, r *http.Request, req any) error {
	defer setReadDeadline(w, time.Time{})
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	d.DisallowUnknownFields()
	err := d.Decode(req)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); !ok {
			return Errorf(CodeInvalidRequest, "the body goes on after its JSON object")
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Errorf(CodeTooLarge, "the body has more than %d bytes", bodyBytesMax)
	}
	return Errorf(CodeInvalidRequest, "the body is not the JSON object expected here: %v", err)
}

// timeoutError names the timeout when that is why the work ended.
func timeoutError(ctx context.Context, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		return err
	}
	return Errorf(CodeTimeout, "timed out: %v", err).WithHint("see `bough status` and the daemon's log")
}

// fail answers with err, and logs it when it is not the caller's doing.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if code := CodeOf(err); code.Status() >= http.StatusInternalServerError {
		s.log.Error("request", "method", r.Method, "path", r.URL.Path, "code", code, "err", err)
	}
	writeError(w, err)
}

// writeError answers with err in the shape of every error.
func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	writeJSON(w, e.Code.Status(), ErrorBody{Error: e})
}

// asError returns the *Error in err, or an internal one with err's text.
func asError(err error) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return Errorf(CodeInternal, "%v", err)
	}
	return e
}

// writeJSON answers with v. The client has lineTimeout to take it.
func writeJSON(w http.ResponseWriter, status int, v any) {
	p, err := json.Marshal(v)
	if err != nil {
		// unreachable: every type of the package can be marshalled.
		panic(fmt.Sprintf("api: marshal %T: %v", v, err))
	}
	setWriteDeadline(w, time.Now().Add(lineTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(p, '\n'))
}

// nonNil returns s, or an empty slice, so that lists are never null in JSON.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
