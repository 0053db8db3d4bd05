//go:build race

package wal

// sweepStep thins the sweeps over every byte out: under the race detector they
// take ten times as long, and have nothing to race with.
const sweepStep = 31
