// Package postgres is the life cycle of endpoints: stock Postgres servers that
// run on branches.
//
// A Manager finds the installed servers, makes the template that projects begin
// as, creates projects and branches in the catalogue with the settings that
// Postgres needs, and starts and stops one server per branch.
//
// # Words
//
//   - Endpoint: a branch's server. It is Stopped, Starting, Running, Stopping or
//     Failed (stopped, but nobody wanted it).
//   - Template: a branch of the hidden project template-<major> with a file
//     system and a cluster fresh from initdb, plus the role and the database
//     "app". It never runs. A project's branch main is a branch of it.
//   - First start: the start after which a branch is recorded as Ready. It sets
//     the password and severs the parent's effects on the outside.
//   - Admin socket: the unix socket by which root and the user that runs the
//     daemon are the superuser, without a password.
//
// # Invariants
//
//  1. At most one server runs on a branch. An endpoint has one operation (a
//     start or a stop) at a time; others wait for it, or share it. A server left
//     by a killed daemon is ended before the first start, see CleanupStale.
//     That is why a postmaster.pid found before a start is stale and removed.
//  2. The daemon never touches a file below a mount of a branch: what has to be
//     done there, a child process does, since the daemon serves those files and
//     would wait for itself. So the configuration, the socket and the log are in
//     <state>/run/<branch-id>, and a child shell prepares the data directory and
//     then becomes Postgres.
//  3. A client (whoever comes by TCP) is never the superuser. pg_hba.conf, which
//     is rewritten at every start and which the server can not change, rejects
//     the role postgres there, and everybody else needs SCRAM. The role app can
//     create roles and databases, but before Postgres 16 that would let it grant
//     itself the roles that reach files and programs of the OS user; so those
//     three roles are not in the templates of 13 to 15.
//  4. A password never leaves the settings but in URL: Postgres gets a SCRAM
//     verifier, over the admin socket, in a session that is not logged.
//  5. Before a branch of a project's branch takes its first connection, and
//     before it makes one, these effects of its parent are gone: replication
//     slots, enabled subscriptions, archiving, primary_conninfo and the like,
//     jobs of pg_cron. CreateBranchOptions.KeepEffects keeps them.
//
// # Start
//
// Open the branch, attach, mount, write the configuration, start Postgres, wait
// for the line "ready to accept connections" in its log, which comes through a
// pipe: no polling, and no connection attempts. Measured on a branch: 57 ms
// after a clean stop, 14 ms of it attach and mount; 51 ms to stop, detach and
// upload. A new branch of a quiet, running parent answers after 0.18 s.
//
// The port is one that was free a moment before; when it is taken meanwhile,
// another one is tried. It is new with every start, and the front door asks for
// it each time. The admin socket has a second name with port 5432, so that
// "psql -h <dir> -U postgres" works. Where <state>/run/<branch-id> is too long
// for a socket, the socket is in /run/bough-<hash>/<branch-id> instead.
//
// The first start of a branch of a project's branch is two starts. In the first
// nobody can connect and no worker of a subscription exists, which is the only
// moment at which subscriptions can be disabled before they connect. It costs
// some 30 ms more, once in a branch's life.
//
// # Configuration
//
// Four layers, each over the one before: postgresql.conf in the data directory
// (initdb's, so that the cluster can also be run without us), our defaults, the
// Conf of the project and of the branch, and ALTER SYSTEM. What must not change
// (addresses, files of authentication, the way of the log, full_page_writes) is
// on the command line, which wins over all of them.
//
// # Durability
//
// At durability remote a flush is a request to the store, of some 40 ms, and Postgres
// flushes its WAL under one lock. Three things follow for the settings, which are changed
// with a reload when the durability changes.
//
// A commit must be one flush. Writing to a file for the first time makes the file system
// commit its own journal with the flush, two more flushes, one after the other. So the
// WAL is written over what was written before: wal_init_zero and wal_recycle are on, and a
// file that was made without them, at durability local, is left for the next one.
//
// All who commit should share one flush. Whoever commits while one is under way waits
// for the next; so without a pause half of the clients are always one flush behind the
// other half. The first of many commits therefore waits (commit_delay) until the others
// have come back from the last flush. How long that takes depends on their number, the
// machine and what they do, so it is looked for: it begins with what is long enough on a
// slow machine, is made shorter step by step for as long as the server makes more
// transactions by that, and looked at again once a minute. Measured with pgbench's simple
// update on two cores, requests of 37 ms, transactions a second:
//
//	 8 clients   97 without a pause, 116 with 1 ms, 183 with 2, 178 with 4, 153 with 8
//	50 clients  587 without a pause, 627 with 4 ms, 844 with 5, 861 with 10, 642 with 30
//
// And pages must not be written many at a time. A write to the device takes one or two
// requests to the store, and a loop device has 128 of them on their way at most, for
// which a flush stands in line with all others. So a checkpoint takes most of the time
// until the next one (checkpoint_completion_target = 0.9, which makes it begin every 32 MB
// and leaves redo bounded by max_wal_size), the background writer throws pages out before
// backends have to, and nothing is left for the kernel to write all at once. With 50
// clients, whenever all 128 were on their way they made 350 to 600 transactions a second,
// and 700 to 900 with fewer than 60.
//
// # Checkpoints
//
// A branch of a running server begins with redo from the parent's last
// checkpoint, and Postgres takes no connection before every page that redo
// touched is written and synced. So that distance is the time that a branch's
// first start takes, and the blocks that it writes. On the other hand, after
// each checkpoint the first change of every page puts the whole page into the
// WAL. The distance is bounded by volume, since time says nothing about it:
// with max_wal_size = 64 MB and checkpoint_completion_target = 0.3, a checkpoint
// begins every 48 MB and redo is 14 to 62 MB.
//
// Measured with pgbench TPC-B, 8 clients, scale 30, two busy cores, against
// 20 000 transactions without any checkpoint in them:
//
//	a checkpoint    bytes of WAL     bytes written   transactions
//	every           per transaction  to disk         per second
//	32 MB           1.5 ×            1.4 ×           0.77 ×
//	48 MB           1.2 ×            1.1 ×           0.87 ×
//	80 MB           1.1 ×            1.05 ×          0.91 ×
//
// wal_compression takes most of the size of the whole pages away (lz4: a
// quarter is left of pgbench's). recovery_prefetch is off: it reads pages that
// redo is about to overwrite with the images in the WAL, and made redo of 20 MB
// take 0.6 s instead of 0.1 s.
//
// # Crashes
//
//   - Postgres dies: the endpoint is Failed, with the server's last lines in
//     Status; it is unmounted and detached, and the next Start begins anew.
//   - The daemon dies: the kernel sends SIGQUIT, Postgres's immediate shutdown,
//     to every server that it started (PR_SET_PDEATHSIG; one thread starts them
//     all and lives as long as the daemon). What survives that is in
//     endpoint.json, or known by its command line, and CleanupStale ends it.
//   - During the first start: all of it is done again at the next one.
//   - During the build of a template: the project names its template last, so a
//     build cut short does not count. The next one takes another branch, since
//     nobody can tell a dead builder on another host from a slow one.
//
// # Concurrency
//
// All methods of Manager may be called concurrently. A start belongs to nobody:
// it goes on when the callers that wait for it give up. A Stop breaks a start
// off; whoever still waits for it then starts it once more.
//
// # Limits
//
// Log: two files of 16 MiB per branch. A start may take StartTimeout (10 min,
// crash recovery included), a fast shutdown StopTimeout (1 min), then it is an
// immediate one. Majors from MajorMin on. The major version of a project is
// fixed: a data directory is of one major version.
//
// # What it does not do
//
// Connections: that is the front door's. Suspending idle endpoints: whoever
// counts connections does. Standbys, and upgrades between major versions.
package postgres
