// Package point reads what people write for a moment of a branch, such as the part
// after the @ of demo/main@-10m, and says in one style what is wrong with it.
//
// # Grammar
//
//	@head                          the last barrier
//	@seq:812                       the barrier of that number
//	@2026-11-25T10:00:00Z          the last barrier at or before a time
//	@-10m  @-1h30m  @-2d  @-1w     the same, so long ago
//	@lsn:0/16B3748                 the last barrier whose WAL is at or before an LSN;
//	                               lsn:0-16B3748 is the same, for names of files
//	@before-drop                   the barrier of the snapshot with that name
//	@xid:1234                      just after a transaction's end
//	@lsn:0/16B3748!                the last transaction whose WAL ends at or before an LSN
//	@2026-11-25T10:00:00Z!         the last transaction by a time, with any of the
//	                               forms of a time above
//	@restore:NAME                  a point that pg_create_restore_point has named
//
// The last four are to a transaction, which only Postgres can find: see
// [Point.Exact]. Everything else names a barrier.
//
// A time is RFC 3339. A space may stand for the T, seconds may be missing, fractions
// may have up to nine digits, and a zone may be as Postgres writes it: +01, +0100,
// +01:00. Without a zone it is local time, where that means something: to the caller of
// [Parse] that gives a location. A local time that happens twice, or not at all,
// because clocks are changed, is an error that names both times that may be meant, or
// those on both sides of the gap.
//
// A snapshot's name can not be mistaken for one of the others: it has no colon, no
// upper case, and begins with a letter or a digit. "head" is no snapshot's name.
//
// # Errors
//
// All wrap [ErrSyntax], begin with the point as it was written, and say what to write
// instead.
package point
