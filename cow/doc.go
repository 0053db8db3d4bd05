// Package cow is the copy-on-write block device: it keeps each branch as a log of
// segments and a tree that says where every block lives, so that a new branch is
// a copy of one root pointer.
//
// # Words
//
//   - project: a named family of branches; its first branch is "main".
//   - branch: a writable device of 4 KiB blocks, with a parent or none. It has an
//     id for ever ([BranchID]) and a name for the time being.
//   - batch: the writes between two barriers.
//   - barrier: a closed and durable batch: the unit of durability and of
//     branching. Barriers are numbered by seq, one by one along a lineage.
//   - journal: the local file that a segment starts its life as; package wal.
//   - segment: an immutable object, a run of consecutive batches of one branch.
//   - log: all segments of one branch, numbered 1, 2, 3 …
//   - slot: the index of a block in its segment, the same in the journal.
//   - address: (log, segment, slot), the place of a block's content for ever.
//   - frame: up to 16 blocks of a segment, compressed and checksummed together:
//     the unit of fetching and caching.
//   - lineage: the logs that a branch's addresses can name, its own last. An
//     address has the log as an index into it.
//   - fork point: the barrier of an ancestor that a branch began as.
//   - page: a node of a tree as a checkpoint holds it.
//   - checkpoint: an object with the pages that changed since the last one.
//   - head: the last barrier of a branch.
//   - mark: how far the database's own log reaches at a barrier ([Mark]).
//   - fence: a segment of one barrier that changes nothing, put by a writer that
//     takes a branch over: it takes the number that the last writer would use next.
//   - manifest: the record of a branch. Its epoch counts the writers.
//   - pack: an object that stands for a run of segments of one log.
//   - piece: a part of a log: a segment, or what a pack stands for.
//   - pin: a barrier of a log that something outside of the log needs.
//   - start set: a hint which blocks the last start on a branch read.
//
// # Invariants
//
// The numbers are those of the whole program; tests name them.
//
//   - I1 Durable: Flush returns nil only when every write that completed before
//     it was called is in the journal, synced. In write-through mode this holds
//     for each write. A failure of the journal is final for the branch: nothing is
//     acknowledged after it ([Branch.Err]).
//   - I2 Prefix: what a crash leaves is the state at one barrier, the last
//     acknowledged one or a later one. A request of up to 1 MiB lies in one batch.
//   - I3 Immutable: an address never names anything else. Slots are given out once,
//     segments, checkpoints and packs are put only if absent, and a pack has what it
//     has under the addresses that it had before.
//   - I4 One writer: opening a branch raises its epoch. If the last writer did not
//     detach, the new one ends that one's log with a fence: the old writer's next
//     segment and its manifest are refused, and it fails for good. At durability
//     remote that is before it has acknowledged anything; at local it may go on
//     acknowledging until its journal is sealed, which whoever takes a branch over
//     has to accept in words ([TakeOverLossy]).
//   - I5 Isolated: a tree changes only nodes of its own generation and copies all
//     others, and no two trees have a generation in common.
//   - I6 Reachable: nothing that a head, a fork point or a barrier which the history
//     keeps can reach is ever removed. Deleting takes a name away; only [Store.Collect]
//     removes data, and by the protocol of docs/collection.md.
//   - I7 Verified: frames, footers, pages, checkpoints and records carry checksums
//     that also tell where they belong; blocks of a journal are compared with the
//     checksums taken when they were written. What does not match is read once
//     more, and then is an error that names the object.
//   - I8 Idle is free: a branch that nobody writes to makes no request and writes no
//     journal once its last segment is stored; one that is closed has nothing in
//     memory but its share of the caches.
//   - I9 Bounded: an open batch closes by itself at 4 MiB, 16384 entries or 128
//     long discards; changed tree pages lead to a checkpoint, unchanged ones are in
//     an LRU; segments that the store has not taken yet are bounded by the journals'
//     budget, at which writers wait. Fetching for starts takes up to 24 MiB in the
//     whole store, and half of the memory cache for each start.
//   - I10 Constant: [Store.CreateBranch] reads a handful of small objects and
//     writes two, whatever the size of the data, its history and the number of
//     branches.
//
// # How a write travels
//
// [Branch.WriteAt] copies into the open batch, in memory that later goes to the
// journal as it is. A part of a block is completed by reading the rest; if the
// block changes meanwhile, that starts again. Beyond 1 MiB a batch spills: its
// full records go to the journal early, unsynced, and their memory is free.
// [Branch.Trim] and [Branch.WriteZeroes] are entries like any other, whatever
// their length.
//
// [Branch.Flush] closes the batch. One of those who wait becomes the leader: it
// takes the batch, puts a new one in its place, writes the old one to the journal
// and syncs, all without the branch's lock; the others wait for it, or for the
// next batch, so that they share syncs. Then the leader folds the batch into the
// tree, and only then does the flush return. Readers find the batch itself until
// the tree has it. In write-through mode each write ends in the same wait.
//
// A journal is sealed when it is full, holds 65536 entries, or a while after its
// first barrier (Options.SealAfter). The segment is then packed in the background
// (blocks in block order, frames compressed, footer with batches and index) and
// put. Segments are put at the same time but counted as stored in order. When the
// store has a segment its journal is free again. An idle branch does nothing.
//
// # Durability
//
// At [DurabilityLocal] a flush waits for the journal. At [DurabilityRemote] every
// batch ends its segment, and the flush waits until the store has that one and all
// before it: one put for all the flushes that share the batch. Up to eight segments
// of a branch are put at a time, none of which waits for another, each begun at least
// an eighth of a put after the one before; what is flushed meanwhile gathers in the
// open batch. The manifest says remote only
// while the store has every flush that returned: [Store.SetDurability] brings the log
// there first.
//
// While the store does not answer, puts are tried again, the status says why and since
// when, journals pile up to their budget, and then writes wait. At remote flushes wait
// from the beginning. Nothing fails, and all goes on by itself.
//
// A barrier has a time, which is never before that of the barrier before it, whatever
// the clocks of the hosts say; and a mark, which never falls either. A [Marker] sees
// each block that is written and tells the marks: that is all that is known here of
// what a database keeps on its device.
//
// # How a read travels
//
// [Branch.ReadAt] looks in the open batch, then in the one being committed, then
// in the tree, which gives addresses. An address leads to a journal of this
// process if the segment still is one; else to a frame, from memory, the disk
// cache or the store, fetched once however many wait. Sequential readers get
// frames ahead of their reads.
//
// # Tree and checkpoints
//
// The tree has three levels: a leaf maps 512 blocks (as runs, or as a flat array
// when there are many), an inner node has 1024 children. It is always the state at
// the last barrier. Nodes are in memory, or are pages of checkpoints and loaded
// when needed. Copying a tree copies its root and gives both copies new
// generations: constant time.
//
// Every 64 segments, when many pages have changed, and when a branch is closed, the
// tree at the end of a segment is cut off and its changed nodes are written as one
// checkpoint object. Then the live tree lets go of those nodes.
//
// # Branching
//
// [Store.CreateBranch] takes the parent's last barrier as it is and never waits
// for its writers: manifest of the child first, then the name. If the parent is
// open here, its tree is copied in memory; else the child is loaded when it is
// opened. Blocks that only a journal of the parent has are read there, and after
// a crash the journals are recovered before anything else, so the child's data
// survives whatever the parent's does. A branch of a branch that has no log yet
// hangs on that one's own fork point, so that chains of unused branches cost
// nothing. A branch with children can be deleted: its log stays.
//
// On a store that several hosts share (Options.Shared) the child is made when the store
// has its fork point: other hosts do not have the parent's journals. A branch that
// another host has attached is branched at the last barrier that the store has;
// [Branch.Publish], on that host, brings the newest one there.
//
// The collector may run meanwhile, on any host. So whoever puts a record that reaches a
// barrier reads the manifest of that barrier's log once more, and takes the record
// back if the barrier is not kept any more: a collection that has not seen the record
// has said before that what it drops, and one that begins later sees it.
//
// # History
//
// The history of a branch is the barriers of its own log and, before its fork point,
// those of its ancestors, as far as they are of its project: what a template was
// before is nobody's past. [Store.History] lists it; [Store.Resolve] finds the barrier
// that a point names (package point), by binary search over the footers of segments
// and packs, since seq, time and mark grow together; [Store.OpenAt] opens a barrier
// for reading, and BranchOptions.At makes a branch of one. An LSN is looked for on the
// line that the branch is on now, and before that began on those that it left for it.
//
// A snapshot is a barrier with a name, in the branch's manifest ([Store.CreateSnapshot]).
// A snapshot that was deleted is remembered for a while, for the sake of the error.
//
// # Restoring
//
// [Store.RestoreBranch] makes a branch begin anew at a barrier of its own past or of
// another branch's. Its id, name, settings and snapshots stay; what was written before
// stays too, in the log that it leaves, for children, snapshots and, if that is asked
// for, a branch that keeps the state before. It goes on in a new log, which is what a
// new branch at that barrier would have. The manifest of the old log then names the
// next log, and that one replacement, which needs that nobody has the branch attached,
// is all that happens to the branch: before it the new log is nobody's, and after it
// whoever wants to attach the old one is led on. A writer on another host attaches by
// replacing the same manifest, so that one of the two is refused: no writer can
// acknowledge what the branch then does not have. So the id of a branch is that of its
// first log, whose manifest always names the newest one, and the id of its log another.
//
// # Deletion
//
// A deleted branch has lost its name, and has a record that leads to it, so that
// [Store.UndeleteBranch] can bring it back until a collection has taken it for good.
// A branch that expires, or that was made for one use, has a record too, so that
// [Store.Expiring] finds it without a look at the others. A protected branch is neither
// deleted nor restored.
//
// # Several hosts
//
// A branch that another host has attached, or had when it died, is refused with an
// [AttachedError], which has the last barrier in the store. [Store.OpenWith] can take
// it over. The store then tells who writes: the epoch in the manifest decides who
// opens, and the fence, put at the first number that the log does not have, decides
// where the old writer's log ends, without the two ever meeting or trusting a clock.
// What the old writer stores after the fence is an orphan. Its journals, where a later
// life finds them, are set aside (see package wal): they are no part of the branch, and
// do not keep it from being opened there again. Indexes and frames of a log that
// another host has written are forgotten, since an orphan may have been replaced.
//
// # History and collection
//
// Every barrier can be opened for as long as its branch's history says ([Retention]),
// or something else needs it: a branch that begins there, a view. [Store.Collect] puts
// packs in the place of segments and checkpoints, which leave out what no such barrier
// can reach; then it deletes those, and whole branches that were deleted. Where the
// blocks and pages of a log are, its manifest says (layout): whoever does not find an
// object where it was looks there again. docs/collection.md has the rules of what stays,
// the protocol, and why several hosts can do all of this at once.
//
// # Opening and recovery
//
// [Store.Open] raises the epoch in the manifest and loads the tree: the newest
// checkpoint, and on top of it the batches in the footers of the segments since
// (never the data). Without a checkpoint it begins with the parent's tree at the
// fork point. If the last writer did not detach, be it that it died or that it
// lives on, a fence is put first.
//
// Only a definite "not there" ends a log, and only if nothing but orphans follow:
// segments of an epoch before that of the log's end, which a fenced writer stored
// though one before them was refused. They are no part of the log, and are replaced
// when their number comes. In a log that this host wrote any other segment after a gap
// says that one is lost: the branch does not open, and the error names both. In that
// of another host it is one of several that were on their way, of which nothing was
// acknowledged that needs the store. A log that ends before the point where its branch
// was detached is damaged too.
//
// A detached branch is opened in two round trips to the store: its manifest; then the
// conditional put of it, and at the same time the checkpoint that the manifest leads
// to, with the root of the tree and what else lies at its end.
//
// [OpenStore] sends the journals that an earlier life left behind to the store,
// as the segments they were going to be: the same numbers, the same contents. A
// journal whose segment is there already, with the same nonce, is given back.
// Recovery deletes nothing that the store does not have. A journal that can not
// be recovered stays on disk and keeps its branch from being opened; all others are
// not affected. One whose writer was fenced is set aside. A branch closed before its journals were stored (the context ended,
// or it had failed) leaves them to whoever needs that log next.
//
// # Starting
//
// What is started on a branch, such as a database, reads much the same blocks each
// time, one after the other. On a host whose caches are empty each of them would
// cost a round trip to the store, or three with the tree's pages and the segment's
// index. So a start is recorded ([Branch.RecordStart]): the blocks that are read,
// from the opening until a while after the start is over, go into a small object,
// the branch's start set. The next start ([OpenOptions].FetchStart) finds their
// addresses and fetches them all at once, while what is started already runs: the
// tree's pages, the indexes, the frames, each many requests at the same time and
// neighbours with one. It also fetches what was written last, for that is what a
// stop leaves for the next start to read, in whatever place. Whoever needs a frame
// on its way waits for it; whoever needs one that nobody has asked for yet does not
// wait.
//
// A start set has blocks and not frames. A frame's address changes whenever one of
// its blocks is written, and every stop writes; the blocks stay. So a set serves
// for long, and serves the children too: one without a set of its own uses its
// ancestors'. It is replaced only by a start that read something else. What the very
// first start on a branch reads beyond that goes to the set of the parent, for its
// other children.
//
// # Crash behaviour
//
// Killed at any instant, or power lost: see I1 and I2; every object is put whole
// or not at all. A branch whose creation was cut short is either there or leaves
// a manifest that nothing refers to. A deletion cut short is ended by the next
// CreateBranch or DeleteBranch of the name; a rename by the same call again: the
// manifest decides which name counts. A project without its branch gets it from
// the next CreateProject, which says that it exists.
//
// # Concurrency
//
// All methods may be called concurrently. A branch is open in one process; others
// meet [ErrInUse], and a writer that lost its branch meets [ErrFenced].
//
// Locks of a branch, outermost first: leadership (Branch.leading, not a mutex: the
// right to use the journal), mu (batches, counters, journal queue), foldMu (the
// tree and the head that belongs to it), treeMu (looking up and changing the tree).
// mu may be held while foldMu and treeMu are taken, never the other way round, and
// no lock is held during input and output but foldMu, by the fold that has to load
// pages. Store.mu and Store.liveMu are innermost, and held for a look at a map.
//
// Traps: Flush must not be called with a lock that a reader needs. Whoever leads may
// wait for a journal file, which another branch gives back: never wait for another
// branch while leading.
//
// # Formats
//
// Packed addresses: see addr. Records (format, project, name, manifest): see
// recordVersion. Segments: see segmentMagic and encodeFooter. Packs: see packMagic and
// encodePackFooter. Checkpoints: see checkpointMagic; pages: see pageMagic; start sets: see startMagic.
// docs/format-store.md has them together, with examples.
//
// # Limits
//
// Devices up to 2 TiB; 65535 ancestors that have a log; 2^35 segments of one
// branch; journal files from 6 to 32 MiB. A branch can not shrink.
//
// # What it does not do
//
// It knows nothing of Postgres, file systems, FUSE or NBD. Collections do not start by
// themselves: whoever has the Store starts them.
package cow
