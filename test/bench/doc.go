// Package main is the benchmark of bough: the same work on a branch and on this
// machine's own ext4, in turn, in one run, as ratios.
//
// It starts a daemon of its own on a state directory of its own, makes a
// project, and mounts its branch. Beside it lies a plain directory on the file
// system that the state directory is on. Each workload runs on the one and on
// the other, the order changing from pair to pair, so that what else happens on
// the machine meets both; what is reported is the median of the pairs' ratios.
// Postgres, its settings and the clients are the same on both sides: only the
// storage below differs.
//
//	go run ./test/bench -bough bin/bough -pairs 3 -json bench.json
//
// The storage suite: pgbench TPC-B and select-only with 8 clients at scale 50; fio with
// 8 KiB random reads, random writes and writes each followed by fdatasync, past
// the page cache. The scale suite: what must not depend on size, as latencies of
// making branches of small, large and scattered devices, among few and many
// branches; of the way from nothing to the first row; the daemon's memory; and
// how fairly 50 branches share with one that floods. The s3 suite: a real S3 server
// behind the latency of a cloud's; TPC-B with a disk cache of a quarter of the database;
// durability remote against the bound that one put for each commit sets, with 1, 8 and
// 50 clients; what a million transactions ask of the store, in requests, bytes and
// dollars; and that a branch which nobody writes to asks nothing. The cold suite, on the
// same kind of store: how long a client waits that connects to a sleeping database on a
// host which has nothing of it, with a start set and without one.
package main
