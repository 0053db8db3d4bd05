package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// timeRoutes adds the routes about the past of branches.
func (s *Server) timeRoutes(mux *http.ServeMux, project, branch string) {
	b := s.backend
	mux.HandleFunc("GET "+branch+"/log", read(s, func(ctx context.Context, r *http.Request) (LogPage, error) {
		q, err := parseLogQuery(r.URL.Query())
		if err != nil {
			return LogPage{}, err
		}
		page, err := b.Log(ctx, r.PathValue("project"), r.PathValue("branch"), q)
		page.Barriers = nonNil(page.Barriers)
		return page, err
	}))
	mux.HandleFunc("GET "+branch+"/snapshots", read(s, func(ctx context.Context, r *http.Request) (SnapshotList, error) {
		l, err := b.ListSnapshots(ctx, r.PathValue("project"), r.PathValue("branch"))
		return SnapshotList{Snapshots: nonNil(l)}, err
	}))
	mux.HandleFunc("POST "+branch+"/snapshots", change(s, http.StatusCreated, func(ctx context.Context, r *http.Request, req CreateSnapshot) (Snapshot, error) {
		if err := errors.Join(CheckName("snapshot", req.Name), CheckPoint(req.At)); err != nil {
			return Snapshot{}, err
		}
		return b.CreateSnapshot(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
	mux.HandleFunc("DELETE "+branch+"/snapshots/{snapshot}", change(s, http.StatusNoContent, func(ctx context.Context, r *http.Request, _ struct{}) (struct{}, error) {
		return struct{}{}, b.DeleteSnapshot(ctx, r.PathValue("project"), r.PathValue("branch"), r.PathValue("snapshot"))
	}))
	mux.HandleFunc("POST "+branch+"/restore", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req RestoreBranch) (RestoredBranch, error) {
		if err := checkRestore(req); err != nil {
			return RestoredBranch{}, err
		}
		return b.RestoreBranch(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
	mux.HandleFunc("POST "+branch+"/throwaway", s.throwaway)
	mux.HandleFunc("GET "+project+"/deleted", read(s, func(ctx context.Context, r *http.Request) (DeletedList, error) {
		l, err := b.ListDeleted(ctx, r.PathValue("project"))
		return DeletedList{Branches: nonNil(l)}, err
	}))
	mux.HandleFunc("POST "+project+"/deleted/{branch}/undelete", change(s, http.StatusOK, func(ctx context.Context, r *http.Request, req UndeleteBranch) (Branch, error) {
		if req.Name != "" {
			if err := CheckName("branch", req.Name); err != nil {
				return Branch{}, err
			}
		}
		return b.UndeleteBranch(ctx, r.PathValue("project"), r.PathValue("branch"), req)
	}))
}

func checkRestore(req RestoreBranch) error {
	errs := []error{CheckPoint(req.At)}
	for _, name := range []string{req.From, req.KeepAs} {
		if name != "" {
			errs = append(errs, CheckName("branch", name))
		}
	}
	if req.Parent && req.From != "" {
		errs = append(errs, Errorf(CodeInvalidRequest, "both from and parent are given"))
	}
	return errors.Join(errs...)
}

// parseLogQuery reads the parameters of a LogQuery.
func parseLogQuery(v url.Values) (q LogQuery, err error) {
	bad := func(name string) error {
		return Errorf(CodeInvalidRequest, "parameter %s %s makes no sense", name, quoteShort(v.Get(name)))
	}
	for name := range v {
		text := v.Get(name)
		switch name {
		case "before":
			q.Before, err = strconv.ParseUint(text, 10, 64)
		case "after":
			q.After, err = strconv.ParseUint(text, 10, 64)
		case "since":
			q.Since, err = time.Parse(time.RFC3339Nano, text)
		case "oldest_first":
			q.OldestFirst, err = strconv.ParseBool(text)
		case "limit":
			if q.Limit, err = strconv.Atoi(text); err == nil && (q.Limit < 0 || q.Limit > LogMax) {
				return q, Errorf(CodeInvalidRequest, "a limit of %d is not from 1 to %d", q.Limit, LogMax)
			}
		default:
			return q, Errorf(CodeInvalidRequest, "there is no parameter %s", quoteShort(name))
		}
		if err != nil {
			return q, bad(name)
		}
	}
	return q, nil
}

// Encode returns the query as the parameters of a URL.
func (q LogQuery) Encode() string {
	v := url.Values{}
	if q.Before > 0 {
		v.Set("before", strconv.FormatUint(q.Before, 10))
	}
	if q.After > 0 {
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.OldestFirst {
		v.Set("oldest_first", "true")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v.Encode()
}

// throwaway answers with the branch, and keeps it until the client hangs up or the
// server ends.
func (s *Server) throwaway(w http.ResponseWriter, r *http.Request) {
	var req ThrowawayBranch
	if err := errors.Join(checkPathNames(r), decodeBody(w, r, &req), CheckPoint(req.At)); err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	for _, end := range []context.Context{s.base, s.held} {
		defer context.AfterFunc(end, cancel)()
	}
	begun := false
	err := s.backend.Throwaway(ctx, r.PathValue("project"), r.PathValue("branch"), req, func(c CreatedBranch) error {
		p, err := json.Marshal(c)
		if err != nil {
			return err
		}
		begun = true
		setWriteDeadline(w, time.Now().Add(lineTimeout))
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusCreated)
		if _, err := w.Write(append(p, '\n')); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	})
	switch {
	case err == nil || errors.Is(err, context.Canceled):
	case begun:
		s.log.Error("throwaway branch", "path", r.URL.Path, "err", err)
	default:
		s.fail(w, r, err)
	}
}
