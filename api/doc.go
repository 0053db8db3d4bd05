// Package api is the daemon's private interface: HTTP with JSON bodies under
// /bough/v1, on a unix socket.
//
// # What it is
//
// A [Server] decodes and checks requests, calls a [Backend], and encodes the
// answer or the error. It knows nothing of stores, devices or Postgres: the
// daemon implements Backend, and tests put a fake in its place. Package
// api/client is the typed client that the command line uses.
//
// # Words
//
// A project is a named family of branches, a branch a writable device with a
// parent, an endpoint a Postgres server running on a branch. "project/branch"
// addresses a branch, and a project's name alone means its branch "main"
// ([ParseBranch]).
//
// # Routes
//
//	GET    /bough/v1/version
//	GET    /bough/v1/status
//	GET    /bough/v1/projects
//	POST   /bough/v1/projects                                       CreateProject
//	GET    /bough/v1/projects/{project}
//	PATCH  /bough/v1/projects/{project}                             SetProject
//	DELETE /bough/v1/projects/{project}
//	GET    /bough/v1/branches                                       of all projects
//	GET    /bough/v1/projects/{project}/branches
//	POST   /bough/v1/projects/{project}/branches                    CreateBranch
//	GET    /bough/v1/projects/{project}/branches/{branch}
//	PATCH  /bough/v1/projects/{project}/branches/{branch}           RenameBranch
//	DELETE /bough/v1/projects/{project}/branches/{branch}
//	PATCH  /bough/v1/projects/{project}/branches/{branch}/settings  SetBranch
//	POST   /bough/v1/projects/{project}/branches/{branch}/start     StartBranch
//	POST   /bough/v1/projects/{project}/branches/{branch}/suspend
//	GET    /bough/v1/projects/{project}/branches/{branch}/connection
//	POST   /bough/v1/projects/{project}/branches/{branch}/attach    AttachBranch
//	POST   /bough/v1/projects/{project}/branches/{branch}/detach
//	GET    /bough/v1/projects/{project}/branches/{branch}/log       LogQuery, as parameters
//	GET    /bough/v1/projects/{project}/branches/{branch}/snapshots
//	POST   /bough/v1/projects/{project}/branches/{branch}/snapshots CreateSnapshot
//	DELETE /bough/v1/projects/{project}/branches/{branch}/snapshots/{snapshot}
//	POST   /bough/v1/projects/{project}/branches/{branch}/restore   RestoreBranch
//	POST   /bough/v1/projects/{project}/branches/{branch}/throwaway ThrowawayBranch; held open
//	GET    /bough/v1/projects/{project}/deleted
//	POST   /bough/v1/projects/{project}/deleted/{branch}/undelete   UndeleteBranch; by name or id
//	POST   /bough/v1/verify                                         VerifyScope; answers JSON lines
//	POST   /bough/v1/gc                                             Collect
//	POST   /bough/v1/usage
//	GET    /metrics                                                 for Prometheus
//	GET    /debug/pprof/…, /debug/vars                              profiles and counters
//
// # Format
//
// Bodies are one JSON object, whatever the Content-Type says. Unknown fields
// are an error in requests, so that a misspelt setting is never ignored, and
// are ignored by the client in answers, so that an older client can talk to a
// newer daemon. Times are RFC 3339, sizes are bytes and end in _bytes.
//
// Every error has the same shape, with the status that [Code.Status] gives:
//
//	{"error": {"code": "not_found", "message": "no branch demo/dev", "hint": "see `bough branch list demo`"}}
//
// A point ("at") is what package cow/point reads; a time without a zone is refused.
//
// throwaway answers with one line that has a [CreatedBranch], and nothing more: the
// branch is deleted when the client hangs up, or the daemon stops.
//
// verify answers with one [VerifyEvent] a line; the last one has a result or
// an error, and a stream without either was cut off.
//
// # Access
//
// The socket is mode 0600, and the credentials of the connecting process
// (SO_PEERCRED) must be root's or the daemon's own user's: whoever may use the
// socket may read and destroy every database.
//
// # Concurrency and cancellation
//
// Requests run concurrently. What changes something runs to its end even when
// the client hangs up, because half an attach is worse than one that nobody
// waits for; it ends early only when the server is closed or its time is up. gc may be
// cut off anywhere, and ends when nobody waits for it.
//
// # Limits
//
// Request bodies 64 KiB, headers 16 KiB, 256 requests at once (more are told
// 503), 30 s for a read and 5 minutes for a change. verify, gc and usage
// have no limit in total, but a client that takes no line for 30 s is cut off.
package api
