package api

import "time"

// Version is the program's version.
type Version struct {
	// Version is the release, or "devel".
	Version string `json:"version"`
	// Revision is the commit it was built from; "" when unknown.
	Revision string `json:"revision,omitempty"`
	// Go is the version of Go it was built with.
	Go string `json:"go"`
}

// Status is what the daemon is and does.
type Status struct {
	// Daemon is the process.
	Daemon DaemonStatus `json:"daemon"`
	// Store is where branches live.
	Store StoreStatus `json:"store"`
	// Journal is the local disk that writes land on first.
	Journal JournalStatus `json:"journal"`
	// Cache is what is kept of the store on this host.
	Cache CacheStatus `json:"cache"`
	// Collector is what the collection that happens by itself does.
	Collector CollectorStatus `json:"collector"`
	// Usage is what everything took of the store when that was measured last; nil = it
	// has not been yet.
	Usage *Usage `json:"usage,omitempty"`
	// Branches are the branches that are attached or have an error.
	Branches []BranchStatus `json:"branches"`
}

// DaemonStatus describes the process.
type DaemonStatus struct {
	// Version is its version.
	Version string `json:"version"`
	// PID is its process id.
	PID int `json:"pid"`
	// Started is when it became ready.
	Started time.Time `json:"started"`
	// StateDir is its directory on this host.
	StateDir string `json:"state_dir"`
	// Listen is the address that Postgres clients connect to.
	Listen string `json:"listen"`
	// WriteMode is "flush" or "through".
	WriteMode string `json:"write_mode"`
	// MemoryBytes is what it holds of memory now.
	MemoryBytes int64 `json:"memory_bytes"`
	// MemoryBytesMax is the limit it was given.
	MemoryBytesMax int64 `json:"memory_bytes_max"`
}

// StoreStatus describes the object store.
type StoreStatus struct {
	// Location is its directory or URL.
	Location string `json:"location"`
	// Projects is how many projects it holds, hidden ones not counted.
	Projects int `json:"projects"`
	// Branches is how many branches those have.
	Branches int `json:"branches"`
	// Error is why the store cannot be read now; "" = it can.
	Error string `json:"error,omitempty"`
	// Requests, Failures, SentBytes and ReceivedBytes count what this daemon has asked
	// of the store.
	Requests int64 `json:"requests"`
	// Failures are the requests that ended without an answer to the question.
	Failures int64 `json:"failures"`
	// SentBytes is what it has put.
	SentBytes int64 `json:"sent_bytes"`
	// ReceivedBytes is what it has read.
	ReceivedBytes int64 `json:"received_bytes"`
	// Host is this host's id, where several share the store; "" = they do not.
	Host string `json:"host,omitempty"`
	// API is the address at which the others ask this host.
	API string `json:"api,omitempty"`
	// Hosts are those that have recorded themselves, this one too, by id.
	Hosts []HostStatus `json:"hosts,omitempty"`
}

// HostStatus describes a host that uses the store.
type HostStatus struct {
	// ID is its id.
	ID string `json:"id"`
	// Started is when it did.
	Started time.Time `json:"started"`
	// Version is that of its program.
	Version string `json:"version,omitempty"`
	// API is the address at which others ask it.
	API string `json:"api,omitempty"`
	// Here says that it is this host.
	Here bool `json:"here,omitempty"`
}

// JournalStatus describes the journal pool.
type JournalStatus struct {
	// UsedBytes is held by segments that are not yet in the store.
	UsedBytes int64 `json:"used_bytes"`
	// BytesMax is the budget; writers wait when it is used up.
	BytesMax int64 `json:"bytes_max"`
	// Error is why the pool cannot make files now; "" = it can.
	Error string `json:"error,omitempty"`
}

// CacheStatus describes the caches of frames.
type CacheStatus struct {
	// MemoryBytes and MemoryBytesMax are the memory tier's fill and bound.
	MemoryBytes int64 `json:"memory_bytes"`
	// MemoryBytesMax is the memory tier's bound.
	MemoryBytesMax int64 `json:"memory_bytes_max"`
	// MemoryHits counts reads answered from memory.
	MemoryHits uint64 `json:"memory_hits"`
	// MemoryMisses counts reads that went on to the disk tier.
	MemoryMisses uint64 `json:"memory_misses"`
	// DiskFrames is how many frames the disk tier holds.
	DiskFrames int64 `json:"disk_frames"`
	// DiskBytesMax is the disk tier's bound; 0 = there is none.
	DiskBytesMax int64 `json:"disk_bytes_max"`
	// DiskHits counts reads answered from the disk tier.
	DiskHits uint64 `json:"disk_hits"`
	// DiskMisses counts reads that went on to the store.
	DiskMisses uint64 `json:"disk_misses"`
	// DiskCorrupt counts slots whose checksum did not agree; they heal.
	DiskCorrupt uint64 `json:"disk_corrupt"`
}

// BranchStatus describes a branch that is in use on this host.
type BranchStatus struct {
	// Branch is the branch.
	Branch
	// PendingBytes is what is durable here and not yet in the store.
	PendingBytes int64 `json:"pending_bytes"`
	// PendingSince is when the oldest of that became durable here.
	PendingSince time.Time `json:"pending_since,omitzero"`
	// StoreError is what the store last answered to what it has not taken yet;
	// "" = nothing is wrong.
	StoreError string `json:"store_error,omitempty"`
	// StoreErrorSince is when that began.
	StoreErrorSince time.Time `json:"store_error_since,omitzero"`
	// TakenOver says from whom this host took the branch; nil = from nobody.
	TakenOver *TakenOver `json:"taken_over,omitempty"`
	// Device is the block device, such as /dev/loop3; "" = none.
	Device string `json:"device,omitempty"`
	// Mountpoint is where it is mounted; "" = nowhere.
	Mountpoint string `json:"mountpoint,omitempty"`
	// Waiting is what its writes wait for; "" = they do not.
	Waiting string `json:"waiting,omitempty"`
	// Connections is how many clients are connected through the front door.
	Connections int `json:"connections"`
}
