package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/bough-db/bough/cow"
	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/postgres/walpage"
)

// Recovery to a transaction. A barrier is a moment of the device: it may come between
// two commits that a point tells apart. So the branch begins as barrier A, the last one
// whose WAL ends before the target, and Postgres, which is told the target, recovers it
// from there with the WAL of barrier B, a later one: stock archive recovery, where the
// archive is the file system of a throwaway branch of B. The recovered branch is on a
// timeline of its own.
//
// A has to end before the target, or Postgres refuses: it would meet the target before
// it is consistent. B has to have the target, and something after it, since Postgres
// knows that it has come to the end only by what it must not apply; and it has to have
// all of the WAL since A, which a checkpoint may have removed. B is searched for by
// trying: a B that does not reach far enough makes Postgres end with an error, and so
// does one without the files.

// ErrRecovering reports a branch that is being recovered to a transaction, or whose
// recovery was cut short: it is going to be deleted.
var ErrRecovering = errors.New("the branch is being recovered to a transaction, or that was cut short")

// ExactOptions say how to make a branch that ends with a transaction.
type ExactOptions struct {
	CreateBranchOptions
	// Hold keeps a branch for one use that is about to be made from being deleted, until
	// the function that it returns is called. Default: nobody deletes it.
	Hold func(name string) (release func())
}

// target is where a recovery ends.
type target struct {
	point    ask.Point
	settings []setting
	from     cow.Barrier // A
	// covers tells whether a barrier may have the target; the first one for which it is
	// true is the first B.
	covers func(*cow.Barrier) bool
	// settles tells whether a barrier has all that the target allows, if its WAL does not
	// reach beyond it: then it is what was asked for.
	settles func(*cow.Barrier) bool
}

// settleAfter is how much later than a time a barrier has to be, so that no transaction
// that has ended by that time is missing in it: its record is written within moments.
const settleAfter = 10 * time.Second

// CreateExactBranch creates a branch of the branch o.From that ends exactly with what
// o.At names, which is the point of a transaction (see ask.Point.Exact), and recovers
// it. A point that there is not is a cow.PointError.
func (m *Manager) CreateExactBranch(ctx context.Context, project, name string, o ExactOptions) (cow.BranchInfo, error) {
	if o.From == "" {
		o.From = cow.MainBranch
	}
	if o.Hold == nil {
		o.Hold = func(string) func() { return func() {} }
	}
	parent, err := m.options.Store.Branch(ctx, project, o.From)
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("find parent %s: %w", o.From, err)
	}
	r := &recovery{m: m, parent: parent, name: name, o: o}
	if !o.Throwaway { // else whoever asked for it holds it
		defer o.Hold(name)()
	}
	info, err := r.run(ctx)
	if err != nil {
		return info, fmt.Errorf("recover branch %s/%s to @%s: %w", project, name, o.At, err)
	}
	return info, nil
}

// recovery makes one branch.
type recovery struct {
	m      *Manager
	parent cow.BranchInfo
	name   string
	o      ExactOptions

	later []cow.Barrier // those after target.from, as far as they were read
	more  bool
}

// errTooShort and errNoWAL are what comes of a recovery with a B that does not reach
// beyond the target, or lacks files.
var (
	errTooShort = errors.New("the WAL ends before the target")
	errNoWAL    = errors.New("the WAL has been removed")
)

func (r *recovery) run(ctx context.Context) (cow.BranchInfo, error) {
	t, err := r.locate(ctx)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	first, err := r.find(ctx, t)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	if first < 0 { // nothing came after A
		return r.plain(ctx, t.from)
	}
	info, err := r.begin(ctx, t)
	if err != nil {
		return info, err
	}
	short, none := first-1, -1 // indexes of a B that was too short, and of one without the files
	for i, step := first, 1; ; {
		b, last, err := r.at(ctx, t, i)
		if err != nil {
			return info, r.giveUp(ctx, info, err)
		}
		i = min(i, len(r.later)-1)
		err = r.try(ctx, info, t, b)
		switch {
		case err == nil:
			return r.finished(ctx, info)
		case errors.Is(err, errTooShort) && (last || t.settles(&b)):
			// What is in B is what was asked for.
			if err := r.m.options.Store.DeleteBranch(ctx, info.Project, info.Name); err != nil {
				return info, err
			}
			return r.plain(ctx, b)
		case errors.Is(err, errTooShort):
			short = i
		case errors.Is(err, errNoWAL):
			none = i
		default:
			return info, r.giveUp(ctx, info, err)
		}
		switch {
		case none >= 0 && none-short <= 1:
			return info, r.giveUp(ctx, info, fmt.Errorf("%w: no barrier has all of it", err))
		case none >= 0:
			i = (short + none) / 2
		default:
			i, step = i+step, 2*step
		}
	}
}

// at returns barrier i of those after A, or the last one, and whether it is the last.
func (r *recovery) at(ctx context.Context, t *target, i int) (b cow.Barrier, last bool, err error) {
	for i >= len(r.later) && (r.more || len(r.later) == 0) {
		after := t.from.Seq
		if n := len(r.later); n > 0 {
			after = r.later[n-1].Seq
		}
		page, err := r.m.options.Store.History(ctx, r.parent.ID, cow.HistoryQuery{After: after, OldestFirst: true, Limit: 1000})
		if err != nil {
			return b, false, err
		}
		r.later, r.more = append(r.later, page.Barriers...), page.More
		if len(page.Barriers) == 0 {
			break
		}
	}
	n := len(r.later)
	if n == 0 {
		return b, true, nil
	}
	i = min(i, n-1)
	return r.later[i], i == n-1 && !r.more, nil
}

// find returns the index of the first barrier after A that may have the target; the last
// one if none has, and -1 if there is none.
func (r *recovery) find(ctx context.Context, t *target) (int, error) {
	for i := 0; ; i++ {
		b, last, err := r.at(ctx, t, i)
		switch {
		case err != nil:
			return 0, err
		case len(r.later) == 0:
			return -1, nil
		case last || t.covers(&b):
			return i, nil
		}
	}
}

// plain makes the branch of a barrier.
func (r *recovery) plain(ctx context.Context, b cow.Barrier) (cow.BranchInfo, error) {
	o := r.o.CreateBranchOptions
	o.At = ask.Point{Kind: ask.Seq, Number: uint64(b.Seq)}
	return r.m.CreateBranch(ctx, r.parent.Project, r.name, o)
}

// begin makes the branch as A, marked as one that is not what was asked for yet, and for
// one use: if this process dies before it is recovered, the next one deletes it.
func (r *recovery) begin(ctx context.Context, t *target) (cow.BranchInfo, error) {
	o := r.o.CreateBranchOptions
	o.At, o.Throwaway = ask.Point{Kind: ask.Seq, Number: uint64(t.from.Seq)}, true
	return r.m.createBranch(ctx, r.parent.Project, r.name, o, func(bs *BranchSettings) { bs.Recovering = t.point.String() })
}

// giveUp removes a branch that could not be recovered.
func (r *recovery) giveUp(ctx context.Context, info cow.BranchInfo, err error) error {
	return errors.Join(err, r.m.options.Store.DeleteBranch(context.WithoutCancel(ctx), info.Project, info.Name), r.m.removeAll(info.ID))
}

// finished says that the branch is what was asked for.
func (r *recovery) finished(ctx context.Context, info cow.BranchInfo) (cow.BranchInfo, error) {
	err := r.m.options.Store.UpdateBranch(ctx, info.ID, func(b *cow.BranchInfo) error {
		bs, err := BranchSettingsOf(b.Settings)
		if err != nil {
			return err
		}
		bs.Recovering, bs.Ready = "", true
		if !r.o.Throwaway {
			b.Throwaway = ""
		}
		b.Settings, err = encodeSettings(b.Settings, bs)
		return err
	})
	if err != nil {
		return info, fmt.Errorf("record that the branch is recovered: %w", err)
	}
	return r.m.options.Store.Branch(ctx, info.Project, info.Name)
}

// throwaway makes a branch of a barrier for one use and mounts it. done unmounts and
// deletes it.
func (r *recovery) throwaway(ctx context.Context, b cow.Barrier) (info cow.BranchInfo, done func() error, err error) {
	name := fmt.Sprintf("wal-%d-%05x", b.Seq, rand.Uint32N(1<<20))
	release := r.o.Hold(name)
	info, err = r.m.CreateBranch(ctx, r.parent.Project, name, CreateBranchOptions{
		From: r.o.From, At: ask.Point{Kind: ask.Seq, Number: uint64(b.Seq)}, Throwaway: true,
	})
	if err != nil {
		release()
		return info, nil, err
	}
	over := context.WithoutCancel(ctx)
	drop := func() error {
		defer release()
		return errors.Join(r.m.options.Store.DeleteBranch(over, info.Project, info.Name), r.m.removeAll(info.ID))
	}
	if _, err := r.m.layout.makeRun(info.ID); err != nil {
		return info, nil, errors.Join(err, drop())
	}
	v, err := r.m.mount(ctx, info, false)
	if err != nil {
		return info, nil, errors.Join(err, drop())
	}
	return info, func() error {
		if err := v.unmount(over); err != nil {
			release()
			return err
		}
		return drop()
	}, nil
}

// try recovers the branch with the WAL that barrier b has.
func (r *recovery) try(ctx context.Context, info cow.BranchInfo, t *target, b cow.Barrier) (err error) {
	src, done, err := r.throwaway(ctx, b)
	if err != nil {
		return fmt.Errorf("open the barrier @seq:%d that has the WAL: %w", b.Seq, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	project, err := r.m.options.Store.Project(ctx, info.Project)
	if err != nil {
		return err
	}
	ps, err := ProjectSettingsOf(project.Settings)
	if err != nil {
		return err
	}
	bs, err := BranchSettingsOf(info.Settings)
	if err != nil {
		return err
	}
	spec, err := r.m.specOf(info, ps, bs)
	if err != nil {
		return err
	}
	spec.recover, spec.first = true, !bs.keeps()
	spec.config.cleaning = true
	spec.config.recovery = append([]setting{
		{"restore_command", restoreCommand(r.m.layout.pgdata(src.ID))},
		{"recovery_target_timeline", fmt.Sprint(max(1, walpage.Timeline(b.Line)))},
		{"recovery_target_action", "promote"},
		// Ready is when it has come to the end, not when it could be looked at.
		{"hot_standby", "off"},
	}, t.settings...)
	v, err := r.m.mount(ctx, info, false)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, v.unmount(context.WithoutCancel(ctx)), r.m.removeRun(r.m.layout.run(info.ID)))
	}()
	began := time.Now()
	f := first{endpoint: newEndpoint(r.m, info.ID), spec: spec, project: ps, branch: bs, watch: newStopwatch()}
	s, err := f.launch(ctx, spec)
	if err != nil {
		return recoveryError(err)
	}
	work := f.sever
	if bs.keeps() {
		work = f.setPassword
	}
	err = f.withAdmin(ctx, s, work)
	err = errors.Join(err, s.stop(context.WithoutCancel(ctx), r.m.options.StopTimeout))
	if err == nil {
		r.m.options.Logger.Info("branch recovered to a transaction", "branch", info.Project+"/"+info.Name, "point", "@"+t.point.String(),
			"from", t.from.Seq, "wal_of", b.Seq, "took", time.Since(began).Round(time.Millisecond))
	}
	return err
}

// goneMark is how the restore command says that a file is not there, though later ones
// are.
const goneMark = "bough: a WAL file has been removed: "

// restoreCommand copies WAL files from the pg_wal of a data directory.
func restoreCommand(pgdata string) string {
	dir := "'" + strings.ReplaceAll(strings.ReplaceAll(pgdata+"/pg_wal", "'", `'\''`), "%", "%%") + "'"
	return fmt.Sprintf(`d=%s; if [ -f "$d/%%f" ]; then exec cp "$d/%%f" "%%p"; fi; case "%%f" in *.*) exit 1;; esac; `+
		`n=$(ls "$d" | grep -E "^[0-9A-F]{24}$" | sort | tail -n 1); `+
		`if [ "$(printf "%%%%s\n" "%%f" "$n" | sort | tail -n 1)" != "%%f" ]; then echo "%s%%f" >&2; fi; exit 1`, dir, goneMark)
}

// recoveryError tells what kept a recovery from its end.
func recoveryError(err error) error {
	failed, ok := errors.AsType[*startError](err)
	if !ok {
		return err
	}
	said := strings.Join(failed.log, "\n")
	switch {
	case strings.Contains(said, goneMark):
		return fmt.Errorf("%w: %w", errNoWAL, err)
	case strings.Contains(said, "recovery ended before configured recovery target was reached"):
		return fmt.Errorf("%w: %w", errTooShort, err)
	}
	return err
}

// specOf returns how the server of a branch is started.
func (m *Manager) specOf(info cow.BranchInfo, ps ProjectSettings, bs BranchSettings) (serverSpec, error) {
	if ps.Template != nil {
		return serverSpec{}, ErrTemplate
	}
	in, err := pick(m.installations, ps.Major)
	if err != nil {
		return serverSpec{}, err
	}
	sockets, err := m.layout.makeRun(info.ID)
	if err != nil {
		return serverSpec{}, err
	}
	spec := serverSpec{binDir: in.BinDir, config: serverConfig{
		major: in.Major, lz4: in.lz4, pgdata: m.layout.pgdata(info.ID), run: m.layout.run(info.ID), sockets: sockets,
		peers: m.peers, keep: bs.keeps(), remote: info.Durability == cow.DurabilityRemote,
		name: info.Project + "/" + info.Name, cores: runtime.GOMAXPROCS(0),
	}}
	spec.config.crowd(m.options.Clients(info.Project, info.Name))
	spec.config.override(ps.Conf, bs.Conf)
	return spec, nil
}
