package point

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrSyntax: what was written is no point.
var ErrSyntax = errors.New("not a point")

// Kind says what a Point goes by.
type Kind int

// The kinds of points.
const (
	Head     Kind = iota // the last barrier
	Seq                  // Number
	Time                 // At
	Ago                  // Back
	LSN                  // Number
	Snapshot             // Name
	XID                  // Number
	Restore              // Name
)

// Point is a moment of a branch as somebody asked for it.
type Point struct {
	Kind   Kind
	Number uint64        // of Seq, LSN, XID
	At     time.Time     // of Time
	Back   time.Duration // of Ago, positive
	Name   string        // of Snapshot, Restore
	// ToTransaction says that Time, Ago or LSN means the last transaction by then, and not
	// the last barrier.
	ToTransaction bool
}

// Exact tells whether the point is that of a transaction, which only Postgres can
// find, and not of a barrier.
func (p Point) Exact() bool { return p.Kind == XID || p.Kind == Restore || p.ToTransaction }

// Settle returns the point with Ago made a Time, as seen at now.
func (p Point) Settle(now time.Time) Point {
	if p.Kind == Ago {
		p.Kind, p.At, p.Back = Time, now.Add(-p.Back), 0
	}
	return p
}

// String returns the point as it is written, without the @.
func (p Point) String() string {
	s := ""
	switch p.Kind {
	case Head:
		return headWord
	case Seq:
		return "seq:" + strconv.FormatUint(p.Number, 10)
	case XID:
		return "xid:" + strconv.FormatUint(p.Number, 10)
	case LSN:
		s = fmt.Sprintf("lsn:%X/%X", p.Number>>32, uint32(p.Number))
	case Time:
		s = p.At.UTC().Format(time.RFC3339Nano)
	case Ago:
		s = "-" + p.Back.String()
	case Restore:
		return "restore:" + p.Name
	default:
		return p.Name
	}
	if p.ToTransaction {
		s += "!"
	}
	return s
}

const headWord = "head"

// Split cuts PROJECT/BRANCH@POINT in two. ok tells whether there is an @.
func Split(ref string) (branch, point string, ok bool) { return strings.Cut(ref, "@") }

// Parse reads a point, with or without the @. Times without a zone are those of zone,
// or an error if that is nil.
func Parse(text string, zone *time.Location) (Point, error) {
	text = strings.TrimPrefix(text, "@")
	p, err := parse(text, zone)
	if err != nil {
		return Point{}, fmt.Errorf("%w: %w", &syntaxError{text}, err)
	}
	return p, nil
}

// syntaxError is the beginning of every error.
type syntaxError struct{ text string }

func (e *syntaxError) Error() string {
	text := e.text
	if len(text) > shownMax {
		text = text[:shownMax] + "…"
	}
	return fmt.Sprintf("point %q", "@"+text)
}

func (e *syntaxError) Unwrap() error { return ErrSyntax }

const shownMax = 60

// forms are what somebody sees who wrote none of them.
const forms = "write a time (@2026-11-25T10:00:00Z), how long ago (@-10m), @seq:N, @lsn:X/Y, @xid:N, @restore:NAME, @head or a snapshot's name"

func parse(text string, zone *time.Location) (Point, error) {
	if text == "" {
		return Point{}, errors.New("there is nothing behind the @: " + forms)
	}
	if text == headWord {
		return Point{Kind: Head}, nil
	}
	if word, rest, ok := strings.Cut(text, ":"); ok {
		switch word {
		case "seq":
			return parseSeq(rest)
		case "lsn":
			number, exact := strings.CutSuffix(rest, "!")
			p, err := parseLSN(number)
			p.ToTransaction = exact
			return p, err
		case "xid":
			return parseXID(rest)
		case "restore":
			return parseRestore(rest)
		}
	}
	body, exact := strings.CutSuffix(text, "!")
	switch {
	case strings.HasPrefix(text, "-"):
		d, err := parseAgo(body[1:])
		return Point{Kind: Ago, Back: d, ToTransaction: exact}, err
	case looksLikeTime(body):
		at, err := parseTime(body, zone)
		return Point{Kind: Time, At: at, ToTransaction: exact}, err
	case exact:
		return Point{}, errors.New("only a time or an LSN can end with '!'")
	case isName(text):
		return Point{Kind: Snapshot, Name: text}, nil
	}
	return Point{}, errors.New("it is none of the known forms: " + forms)
}

func parseSeq(text string) (Point, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return Point{}, fmt.Errorf("%s is not the number of a barrier: see `bough log`", quoted(text))
	}
	return Point{Kind: Seq, Number: n}, nil
}

func parseXID(text string) (Point, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < 3 { // below are those that stand for no transaction
		return Point{}, fmt.Errorf("%s is not the id of a transaction: write what pg_current_xact_id() returned, such as @xid:1234", quoted(text))
	}
	return Point{Kind: XID, Number: n}, nil
}

func parseLSN(text string) (Point, error) {
	hi, lo, ok := strings.Cut(text, "/")
	if !ok {
		hi, lo, ok = strings.Cut(text, "-")
	}
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil || h == 0 && l == 0 {
		return Point{}, fmt.Errorf("%s is not an LSN: write it as Postgres does, such as @lsn:0/16B3748", quoted(text))
	}
	return Point{Kind: LSN, Number: h<<32 | l}, nil
}

// restoreMax is how long the name of a restore point can be in Postgres, in bytes.
const restoreMax = 63

func parseRestore(text string) (Point, error) {
	if text == "" || len(text) > restoreMax || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\ufffd' }) {
		return Point{}, fmt.Errorf("%s is not the name of a restore point: it has 1 to %d bytes, and no '/'", quoted(text), restoreMax)
	}
	return Point{Kind: Restore, Name: text}, nil
}

// isName tells whether text could be the name of a snapshot.
func isName(text string) bool {
	for i, c := range []byte(text) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return text != "" && text != headWord && !strings.HasSuffix(text, ".") && !strings.Contains(text, "..")
}

// quoted is a part of what was written, cut to a length that fits on a line.
func quoted(text string) string {
	if len(text) > shownMax {
		return strconv.Quote(text[:shownMax]) + "…"
	}
	return strconv.Quote(text)
}
