package point

import (
	"errors"
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func utc(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at.UTC()
}

// TestParse has every form, with the canonical one where that differs.
func TestParse(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, c := range []struct {
		text, canonical string
		zone            *time.Location
		exact           bool
	}{
		{text: "head"}, {text: "@head", canonical: "head"},
		{text: "seq:812"}, {text: "seq:18446744073709551615"},
		{text: "lsn:0/16B3748"}, {text: "lsn:0-16b3748", canonical: "lsn:0/16B3748"}, {text: "lsn:FFFFFFFF/FFFFFFFF"}, {text: "lsn:0-16b3748!", canonical: "lsn:0/16B3748!", exact: true},
		{text: "xid:1234", exact: true}, {text: "restore:before the move, v2", exact: true},
		{text: "before-drop"}, {text: "2026-11-25"}, {text: "1.2_x-y"},
		{text: "-10m", canonical: "-10m0s"}, {text: "-1h30m", canonical: "-1h30m0s"}, {text: "-2d", canonical: "-48h0m0s"},
		{text: "-1w12h", canonical: "-180h0m0s"}, {text: "-1.5h", canonical: "-1h30m0s"}, {text: "-250ms"},
		{text: "-10m!", canonical: "-10m0s!", exact: true},
		{text: "2026-11-25T10:00:00Z"}, {text: "2026-11-25t10:00z", canonical: "2026-11-25T10:00:00Z"},
		{text: "2026-11-25T10:00:00.123456789Z"}, {text: "2026-11-25T10:00:00Z!", exact: true},
		{text: "2026-11-25 11:00:00.5+01", canonical: "2026-11-25T10:00:00.5Z"},
		{text: "2026-11-25T11:00+0100", canonical: "2026-11-25T10:00:00Z"},
		{text: "2026-11-25T02:00:00-08:00", canonical: "2026-11-25T10:00:00Z"},
		{text: "2026-11-25T11:00", zone: berlin, canonical: "2026-11-25T10:00:00Z"},
		{text: "2026-07-25 12:00:00!", zone: berlin, canonical: "2026-07-25T10:00:00Z!", exact: true},
		{text: "2026-10-25T01:59:59", zone: berlin, canonical: "2026-10-24T23:59:59Z"},
		{text: "2026-10-25T03:00:00", zone: berlin, canonical: "2026-10-25T02:00:00Z"},
		{text: "2026-03-29T01:59:59.9", zone: berlin, canonical: "2026-03-29T00:59:59.9Z"},
		{text: "2026-03-29T03:00", zone: berlin, canonical: "2026-03-29T01:00:00Z"},
		{text: "2026-10-25T02:30:00+01:00", zone: berlin, canonical: "2026-10-25T01:30:00Z"},
	} {
		p, err := Parse(c.text, c.zone)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		want := c.canonical
		if want == "" {
			want = c.text
		}
		if got := p.String(); got != want {
			t.Errorf("%q is %q, want %q", c.text, got, want)
		}
		if p.Exact() != c.exact {
			t.Errorf("%q: exact is %v", c.text, p.Exact())
		}
	}
}

// TestErrors has what is wrong with points, word by word.
func TestErrors(t *testing.T) {
	const none = "it is none of the known forms: " + forms
	for _, c := range []struct {
		zone       string
		text, want string
	}{
		{"", "", `point "@": there is nothing behind the @: ` + forms},
		{"", "Head", `point "@Head": ` + none},
		{"", "seq:", `point "@seq:": "" is not the number of a barrier: see ` + "`bough log`"},
		{"", "seq:0", `point "@seq:0": "0" is not the number of a barrier: see ` + "`bough log`"},
		{"", "seq:-1", `point "@seq:-1": "-1" is not the number of a barrier: see ` + "`bough log`"},
		{"", "seq:18446744073709551616", `point "@seq:18446744073709551616": "18446744073709551616" is not the number of a barrier: see ` + "`bough log`"},
		{"", "lsn:16B3748", `point "@lsn:16B3748": "16B3748" is not an LSN: write it as Postgres does, such as @lsn:0/16B3748`},
		{"", "lsn:0/0", `point "@lsn:0/0": "0/0" is not an LSN: write it as Postgres does, such as @lsn:0/16B3748`},
		{"", "lsn:0/123456789", `point "@lsn:0/123456789": "0/123456789" is not an LSN: write it as Postgres does, such as @lsn:0/16B3748`},
		{"", "xid:2", `point "@xid:2": "2" is not the id of a transaction: write what pg_current_xact_id() returned, such as @xid:1234`},
		{"", "restore:", `point "@restore:": "" is not the name of a restore point: it has 1 to 63 bytes, and no '/'`},
		{"", "restore:a/b", `point "@restore:a/b": "a/b" is not the name of a restore point: it has 1 to 63 bytes, and no '/'`},
		{"", "-", `point "@-": "" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "-10", `point "@-10": "10" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "-0s", `point "@-0s": "0s" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "--10m", `point "@--10m": "-10m" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "-10y", `point "@-10y": "10y" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "-99999999w", `point "@-99999999w": "99999999w" is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w`},
		{"", "before-drop!", `point "@before-drop!": only a time or an LSN can end with '!'`},
		{"", "2026-11-25T10:00:00", `point "@2026-11-25T10:00:00": it has no zone: write 2026-11-25T10:00:00Z, or 2026-11-25T10:00:00+01:00 with the zone that you mean`},
		{"", "2026-13-25T10:00:00Z", `point "@2026-13-25T10:00:00Z": it is not a time: write it like 2026-11-25T10:00:00Z or 2026-11-25T10:00:00+01:00`},
		{"", "2026-11-25 10:00 CET", `point "@2026-11-25 10:00 CET": it is not a time: write it like 2026-11-25T10:00:00Z or 2026-11-25T10:00:00+01:00`},
		{"Europe/Berlin", "2026-10-25T02:30:00", `point "@2026-10-25T02:30:00": that local time comes twice, because clocks go back then: write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00`},
		{"Europe/Berlin", "2026-10-25T02:00", `point "@2026-10-25T02:00": that local time comes twice, because clocks go back then: write 2026-10-25T02:00:00+02:00 or 2026-10-25T02:00:00+01:00`},
		{"Europe/Berlin", "2026-03-29T02:00:00", `point "@2026-03-29T02:00:00": there is no such local time, because clocks go forward then: the nearest are 2026-03-29T01:59:59+01:00 and 2026-03-29T03:00:00+02:00`},
		{"Europe/Berlin", "2026-03-29T02:59:59.5!", `point "@2026-03-29T02:59:59.5!": there is no such local time, because clocks go forward then: the nearest are 2026-03-29T01:59:59+01:00 and 2026-03-29T03:00:00+02:00`},
		{"America/New_York", "2026-11-01 01:15", `point "@2026-11-01 01:15": that local time comes twice, because clocks go back then: write 2026-11-01T01:15:00-04:00 or 2026-11-01T01:15:00-05:00`},
		{"Australia/Lord_Howe", "2026-10-04T02:15:00", `point "@2026-10-04T02:15:00": there is no such local time, because clocks go forward then: the nearest are 2026-10-04T01:59:59+10:30 and 2026-10-04T02:30:00+11:00`},
		{"Pacific/Apia", "2011-12-30T12:00:00", `point "@2011-12-30T12:00:00": there is no such local time, because clocks go forward then: the nearest are 2011-12-29T23:59:59-10:00 and 2011-12-31T00:00:00+14:00`},
		{"", "a/b", `point "@a/b": ` + none},
		{"", ".hidden", `point "@.hidden": ` + none},
		{"", "a..b", `point "@a..b": ` + none},
	} {
		var z *time.Location
		if c.zone != "" {
			z = zone(t, c.zone)
		}
		_, err := Parse(c.text, z)
		switch {
		case err == nil:
			t.Errorf("%q is a point", c.text)
		case err.Error() != c.want:
			t.Errorf("%q:\n got %s\nwant %s", c.text, err, c.want)
		case !errors.Is(err, ErrSyntax):
			t.Errorf("%q: the error is no ErrSyntax", c.text)
		}
	}
}

// TestLocalTimes: a local time is one time, or none or two of them, and then an error.
// Every quarter of an hour of a year, in zones with all kinds of changes.
func TestLocalTimes(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"} {
		z := zone(t, name)
		shown := map[string]int{} // how many times show this
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		const step = 15 * time.Minute
		for at := from; at.Year() == 2026; at = at.Add(step) {
			shown[at.In(z).Format("2006-01-02T15:04")]++
		}
		for wall := from.AddDate(0, 0, 1); wall.YearDay() < 360; wall = wall.Add(step) {
			text := wall.Format("2006-01-02T15:04")
			p, err := Parse(text, z)
			if ok := err == nil; ok != (shown[text] == 1) {
				t.Fatalf("%s %s: %v, %d times show it", name, text, err, shown[text])
			}
			if err == nil && p.At.In(z).Format("2006-01-02T15:04") != text {
				t.Fatalf("%s %s became %v", name, text, p.At.In(z))
			}
		}
	}
}

func TestSettle(t *testing.T) {
	now := utc(t, "2026-11-25T10:00:00Z")
	p, err := Parse("-90m!", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Settle(now); got.Kind != Time || !got.At.Equal(utc(t, "2026-11-25T08:30:00Z")) || !got.ToTransaction {
		t.Errorf("settled: %+v", got)
	}
	if got := (Point{Kind: Head}).Settle(now); got.Kind != Head {
		t.Errorf("settled: %+v", got)
	}
}

func TestSplit(t *testing.T) {
	if b, p, ok := Split("demo/main@restore:a@b"); b != "demo/main" || p != "restore:a@b" || !ok {
		t.Errorf("%q, %q, %v", b, p, ok)
	}
	if b, _, ok := Split("demo/main"); b != "demo/main" || ok {
		t.Errorf("%q, %v", b, ok)
	}
}

// FuzzParse: whatever was read is read again from how it is written.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"head", "@seq:812", "lsn:0/16B3748", "lsn:1-2", "xid:99", "-1h30m!", "-2d", "2026-11-25T10:00:00.5+01:00!",
		"2026-10-25 02:30", "before-drop", "restore:x y", "", "@", "-", "2026-99-99T99:99:99Z", "seq:", "\x00",
	} {
		f.Add(s)
	}
	berlin := zone(f, "Europe/Berlin")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s, berlin)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("%q: %v is no ErrSyntax", s, err)
			}
			return
		}
		again, err := Parse(p.String(), nil)
		if err != nil {
			t.Fatalf("%q was read, but not %q: %v", s, p.String(), err)
		}
		if !again.At.Equal(p.At) {
			t.Errorf("%q is of %v, and then of %v", s, p.At, again.At)
		}
		again.At = p.At
		if again != p {
			t.Errorf("%q is %+v, and then %+v", s, p, again)
		}
	})
}
