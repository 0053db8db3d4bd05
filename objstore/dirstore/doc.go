// Package dirstore is an object store in a directory: each object is a file under
// the name of its key, and nothing else is in the file.
//
// # Words
//
//   - store directory: the root given to [Open]; private to bough (mode 0700).
//   - exclusive: a Store that is the only one on its directory; what a daemon
//     uses. See [Options].
//   - temporary file: an object on its way in, under .tmp.
//   - label: an extended attribute (user.bough.tag) with the object's tag.
//
// # Layout
//
//	<dir>/branches/x/manifest    an object; its key is branches/x/manifest
//	<dir>/.tmp/<slot>-<n>        temporary file number n of the store in that slot
//	<dir>/.tmp/<slot>.lock       flock held by the store in that slot (an exclusive
//	                             one has slot 0 and no such file)
//	<dir>/.lock                  flock held by an exclusive store (its process id
//	                             inside), and by others while they open
//	<dir>/.swap                  flock held while a key is compared and replaced
//
// Keys cannot begin a segment with a dot, so none can name these. Names that are
// not keys (lost+found, editors' droppings) are not listed and never touched.
// Since file contents are object contents, `cp -r` and `aws s3 sync` copy a store.
//
// # Put, get, delete
//
// A put writes a temporary file, labels and syncs it, and only then gives it its
// name: with link(2) if it must be absent, which fails when the name is taken;
// else with rename(2), under the swap lock, after comparing the tag. Then it
// syncs the directory. That is two syncs for an object in a directory that this
// store has used before, and one more for each directory on the way that it has
// not: the entry of a directory is made durable before an object in it is
// acknowledged, whoever made the directory.
//
// A delete is an unlink under the swap lock and one sync. An exclusive store
// removes the directories that deletes have emptied.
//
// # Tags
//
// The tag is objstore.ContentTag of the contents: both CRC-32s and the size. It
// is kept in the label, so that ranged reads and listings need not read objects.
// A file without label (copied there by other means, or on a file system without
// extended attributes, or an FS that is not the kernel's) is read and labelled
// where that is possible. A Get verifies the label, and every read verifies the
// size in it: a difference is [ErrDamaged]. A file edited in place is damaged;
// remove its label to accept it (setfattr -x user.bough.tag FILE).
//
// # Invariants
//
//  1. A name leads to a whole, synced file, or to nothing.
//  2. A put or delete that returned nil survives a power cut.
//  3. A failed put leaves no file behind, and a killed one leaves only a
//     temporary file, which the next Open removes.
//  4. After a directory failed to sync the store answers nothing but [ErrFailed]:
//     the kernel reports such a failure once, and shows the caller who reads
//     back an object that a power cut may take away.
//
// # Crash behaviour
//
// Killed at any instant: an object is there or not, old or new. The next Open
// finds that the store was not closed, syncs the directory's file system (what is
// read from then on stays) and cleans .tmp. Power cut: the same, and what was
// acknowledged is there. While a put is under way other callers may see its object
// an instant before it is durable; a refused conditional put first syncs what
// refused it.
//
// # Concurrency
//
// Every method may be called concurrently, by any number of stores on one
// directory, unless one is exclusive: then it is the only one, needs no file
// locks, and keeps up to [Options.OpenFiles] files open, so that a ranged read is
// one pread. File locks are polled, since flock(2) cannot wait with a context.
// Network file systems that emulate flock badly are not for more than one store.
//
// # Limits
//
// A store directory is for one host. Listing reads whole directories: a page out
// of a directory of n entries costs n log n. Confinement rests on the key grammar
// (no dot segments) and on nobody else writing into the directory; symbolic links
// in place of objects are refused.
package dirstore
