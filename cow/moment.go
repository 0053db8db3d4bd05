package cow

import (
	"time"

	"github.com/bough-db/bough/wal"
)

// Mark says how far a database's own log reaches on a device: to LSN, in the
// history Line of that log. Both are a Marker's business; here it is only known
// that marks grow: along a line LSN does, and Line when the database leaves one
// history of its log for another; and that the low half of a Line is the number that
// the database itself gives to that history, its timeline. The zero Mark is "not
// known".
type Mark struct {
	Line uint64 `json:"line,omitempty"` // which history of the database's log
	LSN  uint64 `json:"lsn,omitempty"`  // how far it reaches there
}

func (m Mark) timeline() uint32 { return uint32(m.Line) }

// Before tells whether m comes before o.
func (m Mark) Before(o Mark) bool {
	return m.Line < o.Line || m.Line == o.Line && m.LSN < o.LSN
}

// Marker follows a database's log through what is written to one branch. Its
// methods are called one at a time, with the branch's lock held: they must be
// quick, and must not call the branch.
type Marker interface {
	// Look is shown each block before it becomes part of the open batch, and tells
	// whether it is one of the log, which somebody is likely to wait for. p has
	// BlockSize bytes, and is neither changed nor kept.
	Look(block uint64, p []byte) (log bool)
	// Mark ends a batch, and returns how far the log reaches with all that Look
	// was shown until now.
	Mark() Mark
}

// moment is a barrier as records keep it: where it is, and what is known of it.
type moment struct {
	point
	Time time.Time `json:"time,omitzero"`
	Mark
}

// momentOf is the moment of a batch in a segment of the log.
func momentOf(log BranchID, n wal.SegmentNo, bt *wal.Batch) moment {
	return moment{
		point: point{Log: log, Segment: n, Seq: bt.Seq}, Time: bt.Time.UTC(), Mark: Mark{Line: bt.Line, LSN: bt.LSN},
	}
}

// begin is the moment that the branch's own log begins at: its fork point.
func (m *manifest) begin() moment {
	at := m.Fork
	at.point = point{Log: m.ID, Seq: m.Fork.Seq}
	if at.Time.IsZero() {
		at.Time = m.Created
	}
	return at
}
