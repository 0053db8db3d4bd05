package cow

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tier keeps barriers up to an age: all of them, or the last one of each interval.
// Intervals are counted from 1970 UTC, so that they are the same at every look.
type Tier struct {
	Age   time.Duration // how old a barrier may be
	Every time.Duration // the interval; 0 keeps every barrier
}

// Retention says which barriers of a branch stay, besides its head, its fork points
// and its snapshots: those that one of the tiers keeps. Tiers are in the order of
// their ages. The zero Retention keeps none.
type Retention struct {
	Tiers []Tier // by age, each keeping fewer barriers than the one before
}

// DefaultRetention is what a branch has that nobody gave another: every barrier for
// 24 h, one a minute for 7 days.
func DefaultRetention() Retention {
	return Retention{Tiers: []Tier{{Age: 24 * time.Hour}, {Age: 7 * 24 * time.Hour, Every: time.Minute}}}
}

// Limits of a retention.
const (
	tiersMax        = 8
	retentionAgeMax = 100 * 365 * 24 * time.Hour
	everyMin        = time.Second
)

// ErrInvalidRetention: a text that is no Retention; see ParseRetention.
var ErrInvalidRetention = errors.New("invalid history")

var (
	tierPattern = regexp.MustCompile(`^(?:every|all)(?: barriers?)? for (\S+(?: \S+)?)$|^(?:one|1) (?:an?|per|every|each) (\S+(?: \S+)?) for (\S+(?: \S+)?)$`)
	agePattern  = regexp.MustCompile(`^(\d{1,9}) ?([a-z]+)$`)
)

// ParseRetention reads a Retention as a person writes it: tiers with commas between
// them, such as
//
//	every barrier for 24 h, one a minute for 7 d, one an hour for 30 d
//
// An age alone ("7d") is the default cut off there, or drawn out to it; "none" keeps
// nothing. Units are s, m, h, d and w, and their names.
func ParseRetention(text string) (Retention, error) {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	bad := func(why string) (Retention, error) {
		return Retention{}, fmt.Errorf("%w %q: %s; write for example \"7d\", \"none\" or \"every barrier for 24h, one a minute for 7d\"", ErrInvalidRetention, text, why)
	}
	if text == "none" || text == "0" {
		return Retention{}, nil
	}
	if age, err := parseAge(text); err == nil {
		def := DefaultRetention().Tiers
		if age <= def[0].Age {
			return Retention{Tiers: []Tier{{Age: age}}}, nil
		}
		def[1].Age = age
		return Retention{Tiers: def}, nil
	}
	var r Retention
	for part := range strings.SplitSeq(text, ",") {
		m := tierPattern.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil {
			return bad(fmt.Sprintf("%q is no tier", strings.TrimSpace(part)))
		}
		var t Tier
		var err error
		if m[1] != "" {
			t.Age, err = parseAge(m[1])
		} else {
			every := m[2]
			if every[0] < '0' || every[0] > '9' {
				every = "1" + every
			}
			if t.Every, err = parseAge(every); err == nil {
				t.Age, err = parseAge(m[3])
			}
		}
		if err != nil {
			return bad(err.Error())
		}
		r.Tiers = append(r.Tiers, t)
	}
	slices.SortStableFunc(r.Tiers, func(a, b Tier) int { return cmp.Compare(a.Age, b.Age) })
	if err := r.check(); err != nil {
		return bad(err.Error())
	}
	return r, nil
}

// parseAge reads a duration of one unit.
func parseAge(text string) (time.Duration, error) {
	m := agePattern.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%q is no duration", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration", text)
	}
	unit := map[string]time.Duration{
		"s": time.Second, "sec": time.Second, "second": time.Second,
		"m": time.Minute, "min": time.Minute, "minute": time.Minute,
		"h": time.Hour, "hour": time.Hour,
		"d": 24 * time.Hour, "day": 24 * time.Hour,
		"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
		"year": 365 * 24 * time.Hour,
	}
	u, ok := unit[m[2]]
	if !ok {
		u, ok = unit[strings.TrimSuffix(m[2], "s")]
	}
	if !ok {
		return 0, fmt.Errorf("%q is no unit of time", m[2])
	}
	if n == 0 || n > int64(retentionAgeMax/u) {
		return 0, fmt.Errorf("%s is nothing, or too long", text)
	}
	return time.Duration(n) * u, nil
}

func (r Retention) check() error {
	if len(r.Tiers) > tiersMax {
		return fmt.Errorf("%d tiers are too many", len(r.Tiers))
	}
	last := Tier{}
	for _, t := range r.Tiers {
		switch {
		case t.Age <= 0 || t.Age > retentionAgeMax:
			return errors.New("an age of nothing")
		case t.Every < 0 || t.Every > 0 && t.Every < everyMin || t.Every > t.Age:
			return fmt.Errorf("one every %v for %v", t.Every, t.Age)
		case t.Age <= last.Age || t.Every < last.Every || last.Age > 0 && t.Every == last.Every:
			return errors.New("a tier that is older has to keep fewer")
		}
		last = t
	}
	return nil
}

// String returns the text that ParseRetention reads.
func (r Retention) String() string {
	if len(r.Tiers) == 0 {
		return "none"
	}
	parts := make([]string, len(r.Tiers))
	for i, t := range r.Tiers {
		if t.Every == 0 {
			parts[i] = "every barrier for " + ageText(t.Age)
		} else {
			parts[i] = "one every " + ageText(t.Every) + " for " + ageText(t.Age)
		}
	}
	return strings.Join(parts, ", ")
}

func ageText(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d%u.d == 0 && (d/u.d > 1 || u.d < 24*time.Hour) {
			return strconv.FormatInt(int64(d/u.d), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}

// MarshalText returns String.
func (r Retention) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRetention.
func (r *Retention) UnmarshalText(p []byte) (err error) {
	*r, err = ParseRetention(string(p))
	return err
}

// Span returns the age of the oldest barrier that the tiers keep.
func (r Retention) Span() time.Duration {
	if len(r.Tiers) == 0 {
		return 0
	}
	return r.Tiers[len(r.Tiers)-1].Age
}

// Keeps tells whether a barrier of time t is kept at time now, given the time of the
// barrier that comes after it in the log.
func (r Retention) Keeps(now, t, next time.Time) bool {
	age := now.Sub(t)
	for _, tier := range r.Tiers {
		if age <= tier.Age {
			return tier.Every == 0 || interval(t, tier.Every) != interval(next, tier.Every)
		}
	}
	return false
}

// interval numbers the intervals of a tier.
func interval(t time.Time, every time.Duration) int64 { return t.UnixNano() / int64(every) }

// within returns the retention with a span of at most limit: the oldest tiers go
// first.
func (r Retention) within(limit time.Duration) Retention {
	var out Retention
	for _, t := range r.Tiers {
		if len(out.Tiers) > 0 && out.Tiers[len(out.Tiers)-1].Age >= limit {
			break
		}
		t.Age = min(t.Age, limit)
		if t.Age > 0 {
			out.Tiers = append(out.Tiers, t)
		}
	}
	return out
}
