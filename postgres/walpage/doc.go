// Package walpage finds Postgres' write-ahead log in what is written to a device, and
// tells how far it reaches there: so that every barrier of a branch can be found by
// LSN, though nothing was ever asked of Postgres.
//
// # Words
//
//   - page: 8 KiB of WAL. Its header, in the first of its two blocks, has a magic that
//     tells the major version of Postgres, flags, the timeline, and the LSN of the
//     page's first byte, its address. The first page of each WAL file has a longer
//     header, with the identifier of the cluster and the size of the files.
//   - the WAL: the run of pages that is followed. There is one, or none yet.
//   - place: the block that a page lies at.
//   - rival: any other run of pages that was seen lately.
//   - line: a stretch of the WAL of one cluster and timeline. Lines are numbered; a
//     cow.Mark has the number in the upper half of its Line, the timeline in the
//     lower, and the address of a page as its LSN.
//
// # What a mark says
//
// A barrier with the mark P has no byte of the WAL's line beyond P + 8191, and of
// every page before P at least one version. The page P itself is there, as far as
// Postgres had filled it: a barrier that a commit waited for has all of the WAL up to
// that commit's record, which ends in page P or in the page before. A barrier that
// only happened to come while Postgres wrote (a flush for another file) may have an
// older version of the last pages before P: the kernel sends them in any order.
//
// So whoever wants a barrier whose WAL ends at or before X takes one with
// P + 8192 <= X; whoever wants one that has all of the WAL before X takes one with
// P >= X, and a later one should Postgres find a page of it not filled.
//
// # How the WAL is told from its images
//
// Postgres writes pages in the order of their addresses, and writes none again but
// the last one, which it fills bit by bit, always in the same place. A page is
// taken as the WAL's when
//
//   - it is written again in its place, or
//   - it comes next after the last one, or less than 8 MiB after it (the mark waits at
//     the gap until that is filled), and does not lie right after a page that is known
//     to be a copy, and no page with the same address adjoins the one before it, and
//   - version, timeline, cluster and size of files agree, as far as its header has them.
//
// All else begins a rival or goes on with one. A rival becomes the WAL when its last
// page has been written twice more, each time in a later batch, and nothing was heard
// of the WAL meanwhile: that is how a new timeline, a new cluster, pg_resetwal and a
// data directory put back from a copy are found, with the second commit there. A
// timeline that goes on right behind the last page is followed at once, and so is the
// first page of the next file, whatever is missing before it: pg_switch_wal leaves the
// rest of a file empty.
//
// The first page of a WAL file that is ever seen on a device is taken at face value.
// After a device was opened the places are not known: then the first page of the right
// timeline near the mark is taken.
//
// # What can fool it
//
//   - Two servers that work on one device at the same time: one is followed, and the
//     other becomes it whenever the first one is silent while the other commits three
//     times. The same goes for pg_receivewal of another cluster.
//   - WAL of a cluster with the same identifier (all projects of one template have
//     that), on the same timeline, that is further than this one, copied into the file
//     system: pages of it are taken if their turn comes just when the WAL itself is
//     there, or when the kernel does not send the copy's pages in order. Marks are too
//     high then until the WAL has come as far.
//   - A user of the database who writes blocks with headers that he made up, for pages
//     that come next. He moves the marks of his own branch.
//   - A crash of Postgres throws its WAL back to the end of the last whole record. Marks
//     do not fall, so they are too high by those pages until the WAL is there again.
//   - The first two barriers of a new timeline may still have the mark of the old one.
//   - After WAL that was built with other than 8 KiB pages, nothing is ever found.
//
// In all of these only the LSN of barriers is wrong. Their order, time and contents do
// not depend on it, and recovery to an LSN is done by Postgres, which reads the records
// themselves.
//
// # Cost
//
// One comparison of a byte for each 4 KiB block that is no page, some ten nanoseconds
// for one that is; 16 KiB of memory for each open branch with a database.
//
// # Concurrency
//
// A [Tracker] belongs to one branch, which calls it one call at a time.
package walpage
