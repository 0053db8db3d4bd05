package api

import "time"

// EndpointState is what the Postgres server of a branch is doing.
type EndpointState string

// The states of an endpoint.
const (
	// EndpointSuspended runs nothing; the next connection starts it.
	EndpointSuspended EndpointState = "suspended"
	// EndpointStarting is on its way to running; connections wait for it.
	EndpointStarting EndpointState = "starting"
	// EndpointRunning accepts connections.
	EndpointRunning EndpointState = "running"
	// EndpointStopping is on its way to suspended; connections wait for it.
	EndpointStopping EndpointState = "stopping"
	// EndpointFailed stopped by itself; the next connection tries again.
	EndpointFailed EndpointState = "failed"
)

// Branch is a writable device with a parent, or none.
type Branch struct {
	// ID names the branch for ever; a rename does not change it.
	ID string `json:"id"`
	// Project is the project it belongs to.
	Project string `json:"project"`
	// Name is its name within the project.
	Name string `json:"name"`
	// Parent is the parent's name within the project; "" when it has none there.
	Parent string `json:"parent,omitempty"`
	// ParentID is the parent's id, which outlives the parent.
	ParentID string `json:"parent_id,omitempty"`
	// ForkSeq is the parent's barrier that the branch was cut at.
	ForkSeq uint64 `json:"fork_seq"`
	// Seq is its newest barrier.
	Seq uint64 `json:"seq"`
	// Created is when it was made.
	Created time.Time `json:"created"`
	// SizeBytes is the size of its device.
	SizeBytes int64 `json:"size_bytes"`
	// Endpoint is the state of its Postgres.
	Endpoint EndpointState `json:"endpoint"`
	// Attached says that the device is open on this host.
	Attached bool `json:"attached"`
	// Host is who has the branch attached, or had it when it died, where several
	// hosts share the store; "" = nobody.
	Host string `json:"host,omitempty"`
	// Elsewhere says that Host is not this host.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Durability is what its flushes wait for.
	Durability Durability `json:"durability,omitempty"`
	// Protected says that it may neither be deleted nor restored.
	Protected bool `json:"protected,omitempty"`
	// Expires is when it is deleted by itself; the zero time = never.
	Expires time.Time `json:"expires,omitzero"`
	// Throwaway says that it is for one use, and is deleted then.
	Throwaway bool `json:"throwaway,omitempty"`
	// History says which of its barriers stay; "" = what its project says.
	History string `json:"history,omitempty"`
	// Restored is when it was restored last, and RestoredSeq to which barrier.
	Restored    time.Time `json:"restored,omitzero"`
	RestoredSeq uint64    `json:"restored_seq,omitempty"`
	// Error is the failure that the device or endpoint is stuck with; "" = none.
	Error string `json:"error,omitempty"`
}

// Ref returns "project/branch".
func (b Branch) Ref() string { return b.Project + "/" + b.Name }

// Durability says what a commit on a branch has waited for when the client hears of it.
type Durability string

// The durabilities.
const (
	// DurabilityLocal is the journal on this host's disk.
	DurabilityLocal Durability = "local"
	// DurabilityRemote is the store.
	DurabilityRemote Durability = "remote"
)

// CheckDurability returns nil for a durability that there is, or none; otherwise an
// *Error with CodeInvalidRequest.
func CheckDurability(d Durability) error {
	switch d {
	case "", DurabilityLocal, DurabilityRemote:
		return nil
	default:
		return Errorf(CodeInvalidRequest, "durability %s is not one", quoteShort(string(d))).
			WithHint("give %s or %s", DurabilityLocal, DurabilityRemote)
	}
}

// CreateBranch is the request to make a branch.
type CreateBranch struct {
	// Name is the new branch's name.
	Name string `json:"name"`
	// From is the branch of the same project to start from. Default: main.
	From string `json:"from,omitempty"`
	// At is the point of From to start from; see package point. Default: its last
	// barrier.
	At string `json:"at,omitempty"`
	// Durability is the new branch's. Default: the parent's.
	Durability Durability `json:"durability,omitempty"`
}

// SetBranch is the request to change the settings of a branch; what is not given
// stays.
type SetBranch struct {
	// Durability is what its flushes wait for from now on.
	Durability Durability `json:"durability,omitempty"`
	// Protected keeps it from being deleted and restored, or no more.
	Protected *bool `json:"protected,omitempty"`
	// Expires is when it is deleted by itself; the zero time is never.
	Expires *time.Time `json:"expires,omitempty"`
	// History says which of its barriers stay; see package cow's ParseRetention. "" is
	// what its project says.
	History *string `json:"history,omitempty"`
}

// TakeOver says whether a branch may be taken from another host that has it
// attached. A branch of durability remote whose host does not answer is taken in
// any case: nothing that was acknowledged is lost.
type TakeOver struct {
	// Force takes it from a host that answers, or that cannot be asked.
	Force bool `json:"take_over,omitempty"`
	// AcceptLoss takes it although its durability is local: what that host
	// acknowledged after the last barrier in the store is lost.
	AcceptLoss bool `json:"accept_loss,omitempty"`
}

// TakenOver says how this host got a branch from another one.
type TakenOver struct {
	// Host is who had it.
	Host string `json:"host"`
	// Seq is the last barrier that the store had.
	Seq uint64 `json:"seq"`
	// Time is when that was made.
	Time time.Time `json:"time"`
	// Complete says that the store had all that was acknowledged.
	Complete bool `json:"complete"`
}

// StartBranch is the request to start the Postgres of a branch.
type StartBranch struct {
	TakeOver
}

// StartedBranch is the answer to StartBranch.
type StartedBranch struct {
	// Branch is the branch.
	Branch
	// TakenOver says from whom this start took it; nil = from nobody.
	TakenOver *TakenOver `json:"taken_over,omitempty"`
}

// Fork says what a branch of one that another host has attached begins with.
type Fork struct {
	// Host is who has the parent.
	Host string `json:"host"`
	// Published says that it has just stored its last barrier.
	Published bool `json:"published"`
	// Seq is the barrier that the branch begins with.
	Seq uint64 `json:"seq"`
	// Time is when that was made, if the host did not publish.
	Time time.Time `json:"time,omitzero"`
	// Why is why it did not.
	Why string `json:"why,omitempty"`
}

// CreatedBranch is the answer to CreateBranch.
type CreatedBranch struct {
	// Branch is the new branch.
	Branch Branch `json:"branch"`
	// Connection is how to connect to it.
	Connection Connection `json:"connection"`
	// Fork is set if another host has the parent attached.
	Fork *Fork `json:"fork,omitempty"`
}

// RenameBranch is the request to give a branch another name.
type RenameBranch struct {
	// Name is the new name.
	Name string `json:"name"`
}

// BranchList is the answer to a list of branches, by project and creation.
type BranchList struct {
	// Branches are the branches; never null.
	Branches []Branch `json:"branches"`
}

// Connection is how to reach the Postgres of a branch.
type Connection struct {
	// URL is the complete connection URL, password included.
	URL string `json:"url"`
	// Host and Port are the front door's address.
	Host string `json:"host"`
	// Port is the front door's TCP port.
	Port int `json:"port"`
	// Role is the owner of the database.
	Role string `json:"role"`
	// Password is the role's password.
	Password string `json:"password"`
	// Database is the database's name inside Postgres.
	Database string `json:"database"`
	// Options is the value of the startup option that chooses the branch, for
	// clients that name the database themselves (PGOPTIONS).
	Options string `json:"options"`
	// Admin is the superuser's way in, on this host only; nil while suspended.
	Admin *AdminConnection `json:"admin,omitempty"`
}

// AdminConnection is a private unix socket with peer authentication.
type AdminConnection struct {
	// SocketDir is the directory of the socket (PGHOST).
	SocketDir string `json:"socket_dir"`
	// Port is the number in the socket's name (PGPORT).
	Port int `json:"port"`
	// Role is the superuser.
	Role string `json:"role"`
	// Database is the database to open.
	Database string `json:"database"`
}

// AttachBranch is the request to attach a branch as a block device.
type AttachBranch struct {
	// Mountpoint is the absolute path to mount its file system on. Default: a
	// directory of the daemon's own.
	Mountpoint string `json:"mountpoint,omitempty"`
	// At is a point of the branch: what is attached then is a throwaway branch that
	// begins there, read-only, until it is detached. Default: the branch itself.
	At string `json:"at,omitempty"`
	TakeOver
}

// Attachment is a branch that is attached and mounted on this host.
type Attachment struct {
	// Project is the branch's project.
	Project string `json:"project"`
	// Branch is the branch's name.
	Branch string `json:"branch"`
	// Device is the block device, such as /dev/loop3.
	Device string `json:"device"`
	// Mountpoint is where the file system is mounted.
	Mountpoint string `json:"mountpoint"`
	// ReadOnly says that the branch is a throwaway, which begins as barrier Seq of the
	// branch Of and goes when it is detached.
	ReadOnly bool   `json:"read_only,omitempty"`
	Of       string `json:"of,omitempty"`
	Seq      uint64 `json:"seq,omitempty"`
	// TakenOver says from whom the branch was taken for that; nil = from nobody.
	TakenOver *TakenOver `json:"taken_over,omitempty"`
}
