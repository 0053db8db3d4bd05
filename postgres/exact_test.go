package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/cow"
	ask "github.com/bough-db/bough/cow/point"
)

// A branch that is being recovered is not what anybody asked for, and does not start.
func TestRecoveringDoesNotStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	_, err := b.createBranch(b.ctx, "demo", "half", CreateBranchOptions{}, func(bs *BranchSettings) { bs.Recovering = "xid:734" })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Start(b.ctx, "demo", "half"); !errors.Is(err, ErrRecovering) || !strings.Contains(err.Error(), "xid:734") {
		t.Errorf("start = %v, want %v with the point", err, ErrRecovering)
	}
	// A store that knows no past says so, and nothing is left.
	_, err = b.CreateExactBranch(b.ctx, "demo", "exact", ExactOptions{CreateBranchOptions: CreateBranchOptions{At: ask.Point{Kind: ask.XID, Number: 734}}})
	if !errors.Is(err, errNoPast) {
		t.Errorf("recover = %v, want %v", err, errNoPast)
	}
	if _, err := b.options.Store.Branch(b.ctx, "demo", "exact"); !errors.Is(err, cow.ErrNotFound) {
		t.Errorf("branch that was not made = %v, want %v", err, cow.ErrNotFound)
	}
}

// TestRestoreCommand runs the command that Postgres is given, with names that a shell
// and Postgres would take for something else.
func TestRestoreCommand(t *testing.T) {
	pgdata := filepath.Join(t.TempDir(), "it's 100%f \"$HOME\"")
	wal := filepath.Join(pgdata, "pg_wal")
	if err := os.MkdirAll(wal, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"000000010000000000000003", "000000010000000000000005", "00000002.history"} {
		if err := os.WriteFile(filepath.Join(wal, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		file     string
		ok, gone bool
	}{
		{"000000010000000000000003", true, false},
		{"000000010000000000000004", false, true},
		{"000000010000000000000006", false, false}, // it ends there
		{"00000002.history", true, false}, {"00000003.history", false, false},
	} {
		to := filepath.Join(t.TempDir(), "to")
		// As Postgres does it.
		command := strings.NewReplacer("%f", c.file, "%p", to, "%%", "%").Replace(restoreCommand(pgdata))
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if (err == nil) != c.ok || strings.Contains(string(out), goneMark) != c.gone {
			t.Errorf("%s: %v, %q; want success %v, gone %v", c.file, err, out, c.ok, c.gone)
		}
		if text, err := os.ReadFile(to); c.ok && (err != nil || string(text) != c.file) {
			t.Errorf("%s: copied %q, %v", c.file, text, err)
		}
	}
}

// TestRecordLines has what pg_waldump prints of the records that end transactions.
func TestRecordLines(t *testing.T) {
	for line, want := range map[string][4]string{
		"rmgr: Transaction len (rec/tot):     34/    34, tx:        741, lsn: 0/01525A18, prev 0/015259E0, desc: COMMIT 2026-11-26 18:00:00.123456 UTC":                   {"741", "0/01525A18", "COMMIT", "2026-11-26 18:00:00.123456 UTC"},
		"rmgr: Transaction len (rec/tot):     66/    66, tx:        742, lsn: 1/FF525A18, prev 1/FF5259E0, desc: ABORT 2026-11-26 18:00:00.123456 UTC; subxacts: 743 744": {"742", "1/FF525A18", "ABORT", "2026-11-26 18:00:00.123456 UTC; subxacts: 743 744"},
		"rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/0196A0F8, prev 0/0196A0C0, desc: RESTORE_POINT before the move":                           {"0", "0/0196A0F8", "RESTORE_POINT", "before the move"},
		"rmgr: Transaction len (rec/tot):     60/    60, tx:          0, lsn: 0/0196A0F8, prev 0/0196A0C0, desc: COMMIT_PREPARED 745: 2026-11-26 18:00:00.123456 UTC":     {"0", "0/0196A0F8", "COMMIT_PREPARED", "745: 2026-11-26 18:00:00.123456 UTC"},
	} {
		f := recordLine.FindStringSubmatch(line)
		if f == nil || [4]string(f[1:5]) != want {
			t.Errorf("%q: %q, want %q", line, f, want)
		}
	}
	if list := subxactList.FindStringSubmatch("2026-11-26 18:00:00 UTC; subxacts: 743 744"); list == nil || list[1] != " 743 744" {
		t.Errorf("subtransactions: %q", list)
	}
	if recordLine.MatchString("pg_waldump: first record is after 0/152") {
		t.Error("a line that is no record")
	}
}

// TestSettleAfter: a barrier settles a time only when it is well after it.
func TestSettleAfter(t *testing.T) {
	at := time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	r := &recovery{o: ExactOptions{CreateBranchOptions: CreateBranchOptions{At: ask.Point{Kind: ask.Time, At: at, ToTransaction: true}}}}
	b := newBench(t)
	r.m = b.Manager
	tg, _ := r.locate(b.ctx) // there is no past, but the rest is made
	if tg == nil {
		t.Fatal("no target")
	}
	for after, want := range map[time.Duration]bool{0: false, settleAfter: false, settleAfter + time.Second: true} {
		if got := tg.settles(&cow.Barrier{Time: at.Add(after)}); got != want {
			t.Errorf("a barrier %v later settles: %v, want %v", after, got, want)
		}
	}
}
