package postgres

import "time"

const (
	// pauseBase and pauseClient say which pause is surely long enough for short
	// transactions that begin at the same time: a little, and what each takes of a
	// slow processor.
	pauseBase   = 2 * time.Millisecond
	pauseClient = 1600 * time.Microsecond
	// pauseMost is half of what a request to a near region takes: with a longer pause
	// less is won than lost.
	pauseMost = 16 * time.Millisecond
	// pauseLeast is the shortest pause that is tried.
	pauseLeast = 250 * time.Microsecond
	// pauseStep is by what part the pause is made shorter at a time.
	pauseStep = 0.7
	// paceWorse is the part of the best rate below which a pause is too short, and
	// paceOther that below which it is another load than before.
	paceWorse = 0.93
	paceOther = 0.7
)

// firstPause returns the pause to begin with, for so many clients on so many processors.
func firstPause(clients, cores int) time.Duration {
	return min(pauseBase+time.Duration(clients)*pauseClient/time.Duration(cores), pauseMost)
}

// pacer looks for the pause before a flush with which a server makes the most
// transactions. One that is too long costs a little. With one that is too short those who
// come back last from a flush miss the next one, at once half of all. So it comes from
// above, and goes back one step from where the rate drops.
type pacer struct {
	first time.Duration // where it begins anew when the load is another one
	pause time.Duration // that is in force
	best  time.Duration // the pause with the highest rate
	rate  float64       // the highest rate, transactions a second
	found bool          // best is in force
}

// next takes the rate that the pause in force has made, and sets the next one. When it
// has found the best one it is asked again after a while.
func (p *pacer) next(rate float64) {
	switch {
	case !p.found:
		if rate > p.rate {
			p.best, p.rate = p.pause, rate
		}
	case rate < paceOther*p.rate:
		*p = pacer{first: p.first, pause: p.first}
		return
	default:
		p.found, p.rate = false, rate
	}
	shorter := time.Duration(pauseStep * float64(p.pause))
	if p.found = rate < paceWorse*p.rate || shorter < pauseLeast; p.found {
		p.pause = p.best
	} else {
		p.pause = shorter
	}
}
