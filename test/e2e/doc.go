// Package e2e is the end-to-end suite: black-box tests of the bough binary as a
// user runs it, with real Postgres servers on real FUSE files, loop devices and
// ext4 file systems.
//
// # Running
//
// The tests run as root on a machine with /dev/fuse, loop devices and Postgres, and
// are skipped, with the reason, where one of these is missing:
//
//	go test ./test/e2e                            what `make test` runs
//	go test ./test/e2e -run Kill -v -scale 50     one part, with its figures, larger
//	BOUGH_SOAK=30m go test ./test/e2e -run TestSoak -v -timeout 0
//
// The binary is built once per run; BOUGH_BIN names one that exists instead. Random
// choices come from -seed, which is printed.
//
// # Words
//
// A host is one daemon's world: a directory with the state directory in it, and the
// daemon that runs there, when one does. Every test has hosts of its own, on free
// ports, so that tests run beside each other and beside a user's daemon. A ref is
// what the command line calls a branch: PROJECT/BRANCH, or PROJECT.
//
// # What is left behind
//
// Nothing. Everything is below one directory, <TMPDIR or /var/tmp>/bough-e2e-*,
// which goes at the end. Each host checks that a daemon that stopped in order left
// no process, mount or loop device; what a killed one left is taken away by the
// suite, which then checks the same. When the test process itself is killed, the
// kernel tells its daemons to stop, and the next run removes their directories.
// The logs of a failed test are kept in /var/tmp/bough-e2e-logs.
//
// # Oracles
//
// A client that was told of a commit remembers it outside of the database (package
// type ledger); pgbench's balances agree when no transaction was torn; amcheck,
// pg_checksums and e2fsck look at structures that no query reads.
package e2e
