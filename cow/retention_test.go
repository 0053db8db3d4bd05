package cow

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseRetention(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]string{
		"none": "none", "0": "none",
		"7d": DefaultRetention().String(), "6h": "every barrier for 6h", "24h": "every barrier for 24h",
		"30 days": "every barrier for 24h, one every 1m for 30d",
		"every barrier for 24 h, one a minute for 7 d, one an hour for 30 d": "every barrier for 24h, one every 1m for 7d, one every 1h for 30d",
		"Every for 2h,  1 per 10 s for 1 day":                                "every barrier for 2h, one every 10s for 24h",
		"one an hour for 30d, every barrier for 1h":                          "every barrier for 1h, one every 1h for 30d",
		"one every 90 seconds for 2 weeks":                                   "one every 90s for 14d",
	} {
		r, err := ParseRetention(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: got %q, %v, want %q", text, r, err, want)
		}
		again, err := ParseRetention(r.String())
		if err != nil || again.String() != r.String() {
			t.Errorf("%q does not come back: %q, %v", r, again, err)
		}
	}
	for _, text := range []string{
		"", "7", "7x", "-3d", "every barrier", "one a fortnight for 7d", "every barrier for 1d,", "one a day for 1h",
		"every barrier for 7d, one a minute for 1d", "one a minute for 1d, one a minute for 2d", "one every 0s for 1d",
		"99999999999d", "200 years", strings.Repeat("one a minute for 7d,", 9),
	} {
		if r, err := ParseRetention(text); !errors.Is(err, ErrInvalidRetention) {
			t.Errorf("%q: got %q, %v, want ErrInvalidRetention", text, r, err)
		}
	}
	if got, want := DefaultRetention().Span(), 7*day; got != want {
		t.Errorf("default keeps %v, want %v", got, want)
	}
}

func FuzzParseRetention(f *testing.F) {
	for _, s := range []string{"7d", "none", "every barrier for 24 h, one a minute for 7 d", "one an hour for 30 d", "every for 1s,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRetention(text)
		if err != nil {
			if !errors.Is(err, ErrInvalidRetention) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := ParseRetention(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q gave %q, which gives %q, %v", text, r, again, err)
		}
	})
}

// TestRetentionKeeps: at any time, each tier keeps the last barrier of each interval,
// and what one look keeps of an interval a later look keeps too, until it is too old.
func TestRetentionKeeps(t *testing.T) {
	r, err := ParseRetention("every barrier for 1h, one a minute for 3h, one every 10m for 10h")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1700000000, 0)
	var all []time.Time
	for i := range 3 * 3600 {
		all = append(all, start.Add(time.Duration(i)*3300*time.Millisecond))
	}
	kept := map[time.Time]bool{} // what packs still have
	for _, b := range all {
		kept[b] = true
	}
	end := all[len(all)-1]
	for now := end; now.Before(end.Add(11 * time.Hour)); now = now.Add(17 * time.Minute) {
		var left []time.Time
		for _, b := range all {
			if kept[b] {
				left = append(left, b)
			}
		}
		minutes, tens := map[int64]bool{}, map[int64]bool{}
		for i, b := range left {
			next := now.Add(time.Hour) // the head has moved on
			if i+1 < len(left) {
				next = left[i+1]
			}
			keep := r.Keeps(now, b, next)
			if !keep {
				delete(kept, b)
			}
			age := now.Sub(b)
			if keep != (age <= time.Hour) && age <= time.Hour || keep && age > 10*time.Hour {
				t.Fatalf("at %v a barrier of age %v is kept: %v", now, age, keep)
			}
			if keep {
				minutes[interval(b, time.Minute)], tens[interval(b, 10*time.Minute)] = true, true
			}
		}
		for _, b := range all {
			age := now.Sub(b)
			if age < 3*time.Hour && !minutes[interval(b, time.Minute)] {
				t.Fatalf("at %v no barrier is left of the minute of one of age %v", now, age)
			}
			if age < 9*time.Hour+50*time.Minute && !tens[interval(b, 10*time.Minute)] {
				t.Fatalf("at %v no barrier is left of the ten minutes of one of age %v", now, age)
			}
		}
	}
	if len(kept) != 0 {
		t.Errorf("%d barriers are left in the end", len(kept))
	}
}

func TestRetentionWithin(t *testing.T) {
	r, err := ParseRetention("every barrier for 1h, one a minute for 3h, one every 10m for 10h")
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[time.Duration]string{
		20 * time.Hour: r.String(), 5 * time.Hour: "every barrier for 1h, one every 1m for 3h, one every 10m for 5h",
		2 * time.Hour: "every barrier for 1h, one every 1m for 2h", time.Minute: "every barrier for 1m", 0: "none",
	} {
		if got := r.within(limit).String(); got != want {
			t.Errorf("within %v: got %q, want %q", limit, got, want)
		}
	}
}
