package hosts

// Identity says which process answers.
type Identity struct {
	// Host is its id.
	Host string `json:"host"`
	// Run is drawn anew at each of its starts.
	Run string `json:"run"`
}

// Use says what a host does with a branch that it has attached.
type Use struct {
	// Open says that something uses it: a Postgres server, or a mount.
	Open bool `json:"open"`
}

// Published is a branch's last barrier, which the store has now.
type Published struct {
	// Seq numbers it.
	Seq uint64 `json:"seq"`
}

// Answer is what a host says to any question.
type Answer struct {
	Identity
	// Use answers the question for it.
	Use *Use `json:"use,omitempty"`
	// Published answers a publish.
	Published *Published `json:"published,omitempty"`
}
