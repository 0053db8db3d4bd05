package api

// VerifyScope is the request to check what is stored.
type VerifyScope struct {
	// Project limits the check to one project; "" = everything.
	Project string `json:"project,omitempty"`
	// Branch limits it to one branch of the project; "" = all of them.
	Branch string `json:"branch,omitempty"`
	// Quick leaves out reading the data itself: everything that describes it is
	// read and checked, and that it is there.
	Quick bool `json:"quick,omitempty"`
}

// VerifyEvent is one line of the answer to verify. Exactly one field is set.
type VerifyEvent struct {
	// Progress says how far the check is.
	Progress *VerifyProgress `json:"progress,omitempty"`
	// Problem is something that is wrong.
	Problem *VerifyProblem `json:"problem,omitempty"`
	// Orphan is something that nothing needs; of checks of everything that find no problem.
	Orphan *VerifyOrphan `json:"orphan,omitempty"`
	// Result is the end of a check that ran to its end.
	Result *VerifyResult `json:"result,omitempty"`
	// Error is the end of a check that could not.
	Error *Error `json:"error,omitempty"`
}

// VerifyProgress says how far a check is.
type VerifyProgress struct {
	// Project is the project of the branch being checked.
	Project string `json:"project"`
	// Branch is the branch being checked.
	Branch string `json:"branch"`
	// Done counts branches checked.
	Done int `json:"done"`
	// Total counts branches to check.
	Total int `json:"total"`
}

// VerifyProblem is one thing that is wrong.
type VerifyProblem struct {
	// Object is the key of the stored object to blame; "" when none is.
	Object string `json:"object,omitempty"`
	// Detail says what is wrong, as one line.
	Detail string `json:"detail"`
	// Affected are the branches that cannot read all of their data for it.
	Affected []VerifyAffected `json:"affected,omitempty"`
}

// VerifyAffected is what a problem takes away from one branch.
type VerifyAffected struct {
	// Project is the branch's project.
	Project string `json:"project"`
	// Branch is the branch's name.
	Branch string `json:"branch"`
	// Blocks counts the blocks that it cannot read; 0 = not known, or all.
	Blocks uint64 `json:"blocks,omitempty"`
}

// VerifyOrphan is a stored object that nothing needs: no harm, and no loss.
type VerifyOrphan struct {
	// Object is its key.
	Object string `json:"object"`
	// Bytes is what it takes of the store.
	Bytes int64 `json:"bytes"`
	// Detail says why nothing needs it, as one line.
	Detail string `json:"detail"`
}

// VerifyResult is what a whole check found.
type VerifyResult struct {
	// Branches counts the branches checked.
	Branches int `json:"branches"`
	// Segments counts the segments whose descriptions were read.
	Segments int `json:"segments"`
	// Blocks counts the blocks that the branches have data for.
	Blocks int64 `json:"blocks"`
	// Bytes counts the bytes read.
	Bytes int64 `json:"bytes"`
	// Problems counts what is wrong.
	Problems int `json:"problems"`
	// Orphans counts objects that nothing needs; of checks of everything that find no problem.
	Orphans int `json:"orphans"`
	// OrphanBytes is what they take of the store.
	OrphanBytes int64 `json:"orphan_bytes"`
}
