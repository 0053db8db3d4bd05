package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bough-db/bough/cow"
	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/postgres/walpage"
	"github.com/bough-db/bough/wal"
)

// Where a transaction is. By time and LSN barriers can be found. By transaction id and
// by the name of a restore point they cannot: so throwaway branches of barriers are
// mounted, and Postgres's own tools are asked what is in their WAL, which goes back to
// the last checkpoint, and whether a transaction had ended before that. The last barrier
// comes first, since most who ask want something recent.

// locate finds the barrier to begin with.
func (r *recovery) locate(ctx context.Context) (*target, error) {
	p := r.o.At.Settle(time.Now())
	t := &target{point: p, settles: func(*cow.Barrier) bool { return false }}
	switch p.Kind {
	case ask.Time:
		at := p
		at.ToTransaction = false
		b, err := r.resolve(ctx, at)
		t.from = b
		t.settings = []setting{
			{"recovery_target_time", p.At.UTC().Format("2006-01-02 15:04:05.999999") + "+00"},
			{"recovery_target_inclusive", "on"},
		}
		t.covers = func(*cow.Barrier) bool { return true }
		t.settles = func(b *cow.Barrier) bool { return b.Time.Sub(p.At) > settleAfter }
		return t, r.as(p, err)
	case ask.LSN:
		at := p
		at.ToTransaction = false
		if _, err := r.resolve(ctx, at); err != nil {
			return nil, r.as(p, err)
		}
		// All that begins before it, which is all that ends by it.
		t.settings = []setting{{"recovery_target_lsn", walpage.FormatLSN(p.Number)}, {"recovery_target_inclusive", "off"}}
		return t, r.as(p, r.before(ctx, t, p.Number))
	}
	lsn, err := r.search(ctx, p)
	if err != nil {
		return nil, err
	}
	// The record that begins there is the last one.
	t.settings = []setting{{"recovery_target_lsn", walpage.FormatLSN(lsn)}, {"recovery_target_inclusive", "on"}}
	return t, r.as(p, r.before(ctx, t, lsn))
}

// before makes the last barrier whose WAL ends before an LSN the one to begin with.
func (r *recovery) before(ctx context.Context, t *target, lsn uint64) (err error) {
	t.from, err = r.resolve(ctx, ask.Point{Kind: ask.LSN, Number: max(lsn, cow.MarkBytes+1) - cow.MarkBytes})
	t.covers = func(b *cow.Barrier) bool { return b.Line != t.from.Line || b.LSN > lsn }
	return err
}

func (r *recovery) resolve(ctx context.Context, p ask.Point) (cow.Barrier, error) {
	return r.m.options.Store.Resolve(ctx, r.parent.ID, p)
}

// as makes an error about a point one about the point that was asked for.
func (r *recovery) as(p ask.Point, err error) error {
	pe, ok := errors.AsType[*cow.PointError](err)
	if !ok {
		return err
	}
	other := *pe
	other.Point = p
	return &other
}

// noPoint is the error for a point that there is not.
func (r *recovery) noPoint(p ask.Point, nearest cow.Barrier, format string, args ...any) error {
	return &cow.PointError{Project: r.parent.Project, Branch: r.parent.Name, Point: p, Why: fmt.Sprintf(format, args...), Nearest: &nearest}
}

// search finds the LSN of the record that ends a transaction, or is a restore point.
func (r *recovery) search(ctx context.Context, p ask.Point) (uint64, error) {
	head, err := r.resolve(ctx, ask.Point{Kind: ask.Head})
	if err != nil {
		return 0, r.as(p, err)
	}
	if p.Kind == ask.Restore {
		return r.searchName(ctx, p, head)
	}
	seen, err := r.probe(ctx, head, p)
	if err != nil || seen.lsn > 0 {
		return seen.lsn, err
	}
	switch {
	case seen.aborted:
		return 0, r.noPoint(p, head, "that transaction was rolled back")
	case !seen.ended:
		return 0, r.noPoint(p, head, "no such transaction has ended yet; those before %d have begun", seen.next)
	}
	// It had ended before the last checkpoint: between a barrier before which it had not,
	// and one by which it had.
	lo, hi := wal.Seq(0), head.Seq
	for hi > lo+1 {
		mid := lo + (hi-lo)/2
		b, err := r.nearest(ctx, mid)
		if err != nil {
			return 0, err
		}
		if b.Seq <= lo || b.Seq >= hi {
			lo = mid // nothing between is kept
			continue
		}
		seen, err := r.probe(ctx, b, p)
		switch {
		case err != nil:
			return 0, err
		case seen.lsn > 0:
			return seen.lsn, nil
		case seen.ended:
			hi = b.Seq
		default:
			lo = b.Seq
		}
	}
	return 0, r.noPoint(p, head, "it is before the history, or what its WAL was in is not kept any more")
}

// searchName looks for a restore point, from the last barrier backwards: in the WAL of
// each since its last checkpoint, and then of the last one before that checkpoint ended.
func (r *recovery) searchName(ctx context.Context, p ask.Point, b cow.Barrier) (uint64, error) {
	head := b
	for {
		seen, err := r.probe(ctx, b, p)
		if err != nil || seen.lsn > 0 {
			return seen.lsn, err
		}
		lo, hi := cow.Barrier{}, b.Seq
		for hi > lo.Seq+1 {
			mid, err := r.nearest(ctx, lo.Seq+(hi-lo.Seq)/2)
			if err != nil {
				return 0, err
			}
			if mid.Seq <= lo.Seq || mid.Seq >= hi {
				hi = lo.Seq + (hi-lo.Seq)/2 // nothing between is kept
				continue
			}
			then, err := r.probe(ctx, mid, ask.Point{})
			if err != nil {
				return 0, err
			}
			if then.redo < seen.redo {
				lo = mid
			} else {
				hi = mid.Seq
			}
		}
		if lo.Seq == 0 {
			return 0, r.noPoint(p, head, "no restore point has that name")
		}
		b = lo
	}
}

// nearest returns the barrier of that number, or the one that is kept next to it.
func (r *recovery) nearest(ctx context.Context, seq wal.Seq) (cow.Barrier, error) {
	b, err := r.resolve(ctx, ask.Point{Kind: ask.Seq, Number: uint64(seq)})
	if pe, ok := errors.AsType[*cow.PointError](err); ok && pe.Nearest != nil {
		return *pe.Nearest, nil
	}
	return b, err
}

// sighting is what the WAL of one barrier, since its last checkpoint, says.
type sighting struct {
	lsn     uint64 // of the record that was looked for; 0: it is not there
	ended   bool   // the transaction had ended
	aborted bool   // it was rolled back
	next    uint32 // the first transaction id that was not used yet
	redo    uint64 // where the WAL that was looked at begins
}

// probe looks for a transaction or a restore point in the WAL of a barrier; for no more
// than where that WAL begins if p is neither.
func (r *recovery) probe(ctx context.Context, b cow.Barrier, p ask.Point) (s sighting, err error) {
	src, done, err := r.throwaway(ctx, b)
	if err != nil {
		return s, fmt.Errorf("look at @seq:%d: %w", b.Seq, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	project, err := r.m.options.Store.Project(ctx, src.Project)
	if err != nil {
		return s, err
	}
	ps, err := ProjectSettingsOf(project.Settings)
	if err != nil {
		return s, err
	}
	in, err := pick(r.m.installations, ps.Major)
	if err != nil {
		return s, err
	}
	w := &prober{m: r.m, bin: in.BinDir, pgdata: r.m.layout.pgdata(src.ID)}
	if err := w.control(ctx, &s); err != nil || p.Kind == ask.Head {
		return s, err
	}
	if err := w.scan(ctx, p, &s); err != nil {
		return s, fmt.Errorf("look at the WAL of @seq:%d: %w", b.Seq, err)
	}
	if p.Kind == ask.XID && s.lsn == 0 && !s.ended && uint32(p.Number) < s.next {
		if err := w.status(ctx, uint32(p.Number), &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

// prober asks Postgres's tools about a data directory in which no server runs. They run
// as Postgres's user: the daemon itself does not read from what it serves.
type prober struct {
	m        *Manager
	bin      string
	pgdata   string
	timeline uint64
}

// lines runs a program and calls each with every line that it prints. One that fails
// after it has printed something is taken for one that has come to an end.
func (w *prober) lines(ctx context.Context, each func([]byte), name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = "/", w.m.childEnv(w.bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.m.account.credential()}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	n := 0
	in := bufio.NewScanner(out)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		n++
		each(in.Bytes())
	}
	_, _ = io.Copy(io.Discard, out) // a line too long is none that is looked for
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && n == 0 && !bytes.Contains(said.Bytes(), []byte("invalid record")) && !bytes.Contains(said.Bytes(), []byte("error in WAL record")) {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(name), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// control reads what the last checkpoint says.
func (w *prober) control(ctx context.Context, s *sighting) error {
	var bad error
	err := w.lines(ctx, func(line []byte) {
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		var err error
		switch name {
		case "Latest checkpoint's REDO location":
			s.redo, err = parseLSN(value)
		case "Latest checkpoint's TimeLineID":
			w.timeline, err = strconv.ParseUint(value, 10, 32)
		case "Latest checkpoint's NextXID":
			_, xid, _ := strings.Cut(value, ":")
			var n uint64
			n, err = strconv.ParseUint(xid, 10, 32)
			s.next = uint32(n)
		}
		bad = errors.Join(bad, err)
	}, filepath.Join(w.bin, "pg_controldata"), "-D", w.pgdata)
	if err = errors.Join(err, bad); err == nil && (s.redo == 0 || w.timeline == 0 || s.next == 0) {
		err = errors.New("pg_controldata does not say where the last checkpoint is")
	}
	return err
}

func parseLSN(text string) (uint64, error) {
	hi, lo, _ := strings.Cut(text, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	return h<<32 | l, errors.Join(err1, err2)
}

var (
	recordLine  = regexp.MustCompile(`, tx:\s*(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), .*?desc: (\w+) ?(.*)$`)
	subxactList = regexp.MustCompile(`; subxacts:((?: \d+)+)`)
)

// scan goes through the WAL since the last checkpoint.
func (w *prober) scan(ctx context.Context, p ask.Point, s *sighting) error {
	kind := "Transaction"
	if p.Kind == ask.Restore {
		kind = "XLOG"
	}
	xid := strconv.FormatUint(uint64(uint32(p.Number)), 10)
	var bad error
	err := w.lines(ctx, func(line []byte) {
		f := recordLine.FindSubmatch(line)
		if f == nil {
			return
		}
		tx, what, rest := string(f[1]), string(f[3]), string(f[4])
		if n, err := strconv.ParseUint(tx, 10, 32); err == nil && n > 0 && int32(uint32(n)-s.next) >= 0 {
			s.next = uint32(n) + 1
		}
		found := false
		switch {
		case p.Kind == ask.Restore:
			found = what == "RESTORE_POINT" && rest == p.Name
		case strings.HasSuffix(what, "_PREPARED"):
			of, _, _ := strings.Cut(rest, ":")
			found = of == xid
		case what == "COMMIT" || what == "ABORT":
			found = tx == xid
			if list := subxactList.FindStringSubmatch(rest); !found && list != nil {
				found = strings.Contains(list[1]+" ", " "+xid+" ")
			}
		}
		if !found {
			return
		}
		s.ended = true
		if s.aborted = strings.HasPrefix(what, "ABORT"); !s.aborted {
			var err error
			s.lsn, err = parseLSN(string(f[2]))
			bad = errors.Join(bad, err)
		}
	}, filepath.Join(w.bin, "pg_waldump"), "-p", filepath.Join(w.pgdata, "pg_wal"), "-t", strconv.FormatUint(w.timeline, 10),
		"-s", walpage.FormatLSN(s.redo), "-r", kind)
	return errors.Join(err, bad)
}

// Of the file that says how transactions have ended: transactions for each page of 8 KiB,
// pages for each file, and two bits for each transaction.
const (
	xactsPerPage = 8192 * 4
	xactPages    = 32
	xactDone     = 1
	xactAborted  = 2
)

// status reads how a transaction had ended at the last checkpoint.
func (w *prober) status(ctx context.Context, xid uint32, s *sighting) error {
	file := filepath.Join(w.pgdata, "pg_xact", fmt.Sprintf("%04X", xid/xactsPerPage/xactPages))
	at := xid/4 - xid/xactsPerPage/xactPages*xactPages*8192
	state := 0
	err := w.lines(ctx, func(line []byte) {
		if n, err := strconv.Atoi(strings.TrimSpace(string(line))); err == nil {
			state = n >> (2 * (xid % 4)) & 3
		}
	}, "od", "-An", "-tu1", "-j", strconv.FormatUint(uint64(at), 10), "-N1", file)
	if err != nil {
		// What is no longer there has been frozen: it had ended long before.
		return nil
	}
	s.ended, s.aborted = state == xactDone || state == xactAborted, state == xactAborted
	return nil
}
