// Package sim is the simulation of the whole storage engine: several hosts with one
// object store, in virtual time, where one seed decides about everything that
// happens.
//
// The code under test is cow, wal and cache as they are. Simulated are the disks
// (vfs/memfs), the object store (objstore/memstore), the clients and the order of
// events.
//
// # Words
//
//   - seed: the number of a run. It decides about the configuration and about each
//     step, so that the same seed, number of steps and code give the same run.
//   - host: a machine with a disk, and at most one process at a time: a journal pool,
//     a Store, and sometimes a cache on disk.
//   - incarnation: one life of a host's process, as h1.3; a host that loses its disk
//     gets another name, h1-1.
//   - operation: a call of a process on the store, or one on its disk that makes
//     something durable. It is parked until the scheduler decides about it.
//   - task: what a client asks of a host: boot, stop, open, write, flush, create …
//   - step: one decision of the scheduler.
//   - cell: a place on a device that operations write as a whole.
//   - history: what one writer did to a branch, and what it was told.
//   - barrier window: a time in which somebody asked for a barrier.
//
// # Use
//
//	go test ./test/sim                                          what `make test` runs
//	go test ./test/sim -run TestSim -seed 17 -steps 400 -v      one run, again
//	go test ./test/sim -run TestSim -seed 17 -show              with its whole trace
//	go test ./test/sim -run TestSim -seed 1 -seeds 100000 -keep many; one line for each that fails
//	BOUGH_SOAK=30m go test ./test/sim -run TestSoak -v -timeout 0   fresh seeds
//
// A failure prints the seed, the step, the end of the trace and the command that
// repeats it. A line of the trace is the step, the virtual time in seconds, and what
// was decided:
//
//	start, end   a task
//	do           an operation was carried out and answered
//	hold, answer carried out, and answered in a later step
//	fail         it did nothing and failed
//	give up      it failed, and may yet have its effect
//	late, drop   that effect came, or did not
//	lost         carried out, and the answer was lost
//	spoil        what was read was falsified on its way
//	crash, wipe, pause, disk   of a host
//
// # How a run goes
//
// Everything runs in a bubble of testing/synctest. In each step the scheduler lets a
// little virtual time pass, which means that every other goroutine has come to rest: parked at
// an operation, waiting for another goroutine, or for more time. It takes note of
// the tasks that have ended, and then decides, by the seed: to let one parked
// operation go on, in one of the ways above; to start a task; to crash a host, with
// one of the kinds of crashes that memfs knows, to pause it or to let it go on; to
// take its disk away, or fill it; to let an effect come whose caller has given up; or
// to let more time pass, so that timers go off. Several tasks are under way at once.
//
// A paused host is one that is stopped and resumed, with what it had sent on its way.
// Others may have taken its branches over meanwhile.
//
// In the end all faults end, everything must come to an end too, and every host is
// stopped and started once more. Each branch is opened and compared, and a host that
// was never there before checks the whole store, deeply.
//
// # What is checked
//
//   - I1, I2: whoever opens a branch reads all its cells. What is found must be the
//     history at one barrier window, with every change whole that is durable for the
//     reader, and with each change all that had ended before that one began. Durable is:
//     for the same host with the same disk what was flushed; for others what was
//     flushed at durability remote, published or detached. A branch that was made must
//     be what its parent was at such a window.
//   - I3: every put is watched. An object changes only by a condition; a segment only
//     if it is an orphan, by the simulation's own reading of its format.
//   - I4: a flush at durability remote that is acknowledged after another host took
//     the branch must be in what that host found.
//   - I5: stamps are unique in the run, and carry their cell.
//   - I6: where nobody collects, no object is deleted but names, and manifests of
//     branches that never were. In half of the runs collectors delete, several at a
//     time and cut off anywhere, with little history or all of it kept, and long times
//     go by: whatever somebody needed of that is missed when it is read, by clients, by
//     whoever looks back, and in the end.
//   - I7: a read gives what was there at some moment of the read, whatever was spoiled
//     on the way, or an error.
//   - Errors: an error must have a reason, a fault that was played to that process or
//     what others had done (world.mustBe).
//   - Ends: without faults, nothing takes longer than ten virtual minutes.
//
// Changes that overlap are not under way at the same time, so that their order is
// known; reads overlap with everything.
//
// # Determinism
//
// Operations are sorted by what they are, not by which goroutine came first. Random
// numbers come from the seed: of the scheduler, and for each process of its own.
// One goroutine runs at a time (GOMAXPROCS 1), and the collector runs between runs
// only. Steps take times that differ, so that no two timers go off at the same
// instant, the order of which the runtime draws by lot. The order of a map must not
// decide about anything: where cow had such places, it sorts now.
//
// Two things can still change a run: a machine that is so busy that the runtime
// takes the processor from a goroutine in the middle of a step, while another could
// run; and a bug in this package. TestSame compares whole traces. The race detector
// draws the order of goroutines by lot: with it runs are as good, but can not be
// repeated.
//
// # Traps
//
// A goroutine that waits for a a mutex of package sync does not count as at rest: a lock that is
// held while an operation is parked stops the simulation, until the test's
// time is up and the stacks are printed. cow and wal hold none.
//
// # What it does not do
//
// It does not lose bytes at rest: what the store has taken stays as it is, and so
// does what a disk has synced. A journal of an earlier life is read without falsification:
// the end of a log that is damaged there can not be told from a torn one.
package sim
