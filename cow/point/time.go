package point

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// looksLikeTime tells a time, a wrong one too, from a snapshot's name.
func looksLikeTime(text string) bool {
	const date = "2006-01-02"
	if len(text) <= len(date) || !strings.ContainsAny(text[len(date):len(date)+1], "Tt ") {
		return false
	}
	for i := range len(date) {
		digit := text[i] >= '0' && text[i] <= '9'
		if (date[i] == '-') != (text[i] == '-') || (date[i] != '-') != digit {
			return false
		}
	}
	return strings.Contains(text[len(date):], ":")
}

// parseTime reads a time that looksLikeTime.
func parseTime(text string, zone *time.Location) (time.Time, error) {
	normal := strings.ToUpper(text)
	normal = normal[:10] + "T" + normal[11:]
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
		for _, z := range []string{"Z07:00", "Z0700", "Z07"} {
			if t, err := time.Parse(layout+z, normal); err == nil {
				return t, nil
			}
		}
		if wall, err := time.Parse(layout, normal); err == nil {
			return localTime(wall, zone)
		}
	}
	return time.Time{}, errors.New("it is not a time: write it like 2026-11-25T10:00:00Z or 2026-11-25T10:00:00+01:00")
}

const (
	localLayout = "2006-01-02T15:04:05.999999999"
	zonedLayout = localLayout + "Z07:00"
)

// localTime returns when the clocks of the zone show what wall says.
func localTime(wall time.Time, zone *time.Location) (time.Time, error) {
	if zone == nil {
		text := wall.Format(localLayout)
		return time.Time{}, fmt.Errorf("it has no zone: write %sZ, or %s+01:00 with the zone that you mean", text, text)
	}
	// Whatever offset is in force then, it is one that is in force a day earlier or
	// later: clocks are not changed twice in two days.
	var found []time.Time
	guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
	for _, d := range []time.Duration{-24 * time.Hour, 0, 24 * time.Hour} {
		_, offset := guess.Add(d).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second).In(zone)
		if t.Format(localLayout) == wall.Format(localLayout) && (len(found) == 0 || !found[len(found)-1].Equal(t)) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		before, after := aroundGap(guess)
		return time.Time{}, fmt.Errorf("there is no such local time, because clocks go forward then: the nearest are %s and %s",
			before.Format(zonedLayout), after.Format(zonedLayout))
	}
	if found[1].Before(found[0]) {
		found[0], found[1] = found[1], found[0]
	}
	return time.Time{}, fmt.Errorf("that local time comes twice, because clocks go back then: write %s or %s",
		found[0].Format(zonedLayout), found[1].Format(zonedLayout))
}

// aroundGap returns the last second before clocks go forward and the first one after,
// near t, which is the time that such a gap makes of a local time inside of it.
func aroundGap(t time.Time) (before, after time.Time) {
	start, end := t.ZoneBounds()
	change := start
	if start.IsZero() || !end.IsZero() && end.Sub(t) < t.Sub(start) {
		change = end
	}
	return change.Add(-time.Second), change
}

// agoMax is more than any history has.
const agoMax = 200 * 365 * 24 * time.Hour

// parseAgo reads a duration such as 10m, 1h30m, 2d or 1w12h.
func parseAgo(text string) (time.Duration, error) {
	bad := fmt.Errorf("%s is not a duration: write it like @-10m, @-1h30m, @-2d or @-1w", quoted(text))
	var total time.Duration
	for rest := text; rest != ""; {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n <= 0 {
			return 0, bad
		}
		end := n
		for end < len(rest) && (rest[end] < '0' || rest[end] > '9') {
			end++
		}
		unit, scale := rest[n:end], 1
		switch unit {
		case "d":
			unit, scale = "h", 24
		case "w":
			unit, scale = "h", 7*24
		}
		d, err := time.ParseDuration(rest[:n] + unit)
		if err != nil || d > agoMax/time.Duration(scale) {
			return 0, bad
		}
		if total += d * time.Duration(scale); total > agoMax {
			return 0, bad
		}
		rest = rest[end:]
	}
	if total <= 0 {
		return 0, bad
	}
	return total, nil
}
