// Package proxy is the Postgres front door: one TCP port through which the
// clients of every branch reach the Postgres of theirs, which is started first
// if it sleeps.
//
// # Words
//
// A client is whoever connects to the door, a backend is the Postgres server of
// a branch, a route is the project and branch that a client names, a session is
// a client that was let in: it waits for its backend or has one. A greeting is
// what a server says up to its first ReadyForQuery.
//
// # Life of a connection
//
//  1. The first packets are read by hand, exactly to their end: SSLRequest and
//     GSSENCRequest (each once, both answered 'N'), then StartupMessage or
//     CancelRequest.
//  2. The startup packet is routed (below), the role checked, a place taken.
//  3. The branch is woken. All clients that wait for one branch share one call
//     of [Waker]; one that leaves ends its own wait and nothing else.
//  4. The backend is dialled and given the startup packet. Nothing that it says
//     reaches the client before it has said something other than "not now": if it
//     does not listen, hangs up, or refuses with SQLSTATE 57P03 (starting,
//     stopping, recovering), the branch is woken again and the backend tried again,
//     until Options.WakeTimeout or 30 attempts are over. So no client is refused
//     because a stop or a start is under way.
//  5. Both directions are copied. The server's messages are followed, without
//     being changed, up to the first ReadyForQuery, to learn its cancel key. From
//     there on, and from the client from the start, the kernel moves the bytes
//     from socket to socket (splice) and nothing is looked at.
//  6. The end of one side is passed on to the other: a client that only ends its
//     own side still gets its answers, a server's last words reach the client. A
//     connection that fails on one side is closed on both, after at most 5 s.
//
// # Routing
//
// The branch is named in one of two ways; PROJECT alone is PROJECT/main.
//
//   - In the startup parameter options, as a setting of the server that the door
//     takes out: "-c branch=PROJECT/BRANCH", "-cbranch=…", "--branch=…", or the
//     bare word "branch=…". The string is read as Postgres reads it (white space
//     separates, a backslash takes the next character literally, a switch may take
//     the next word as its value), and what is left of it is passed on byte for
//     byte.
//   - In the parameter database, behind the last @: "DBNAME@PROJECT/BRANCH". The
//     part before it is passed on; when it is empty the parameter is dropped, and
//     Postgres takes its default, the user's name.
//
// Both may be given if they agree. A database equal to the user's name (the
// default of libpq) is not searched for an @ when the options name a branch. No
// other option is an alias: project= and endpoint= are passed on.
//
// # Protocol
//
// Any minor version of protocol 3 is taken: version word, parameters (_pq_.
// ones too) and their order go to the server as they came, and the server
// negotiates. A parameter that the door acts on (user, database, options) must
// not come twice, because a reader that takes the first and one that takes the
// last would see different users.
//
// A refusal is an ErrorResponse of severity FATAL, one line and a hint:
//
//	SQLSTATE  when
//	08P01     not the Postgres protocol, a packet too long or badly laid out
//	0A000     a protocol version other than 3
//	28000     no user, or a reserved role
//	3D000     no branch named, a bad name, two different names, an unknown branch
//	42601     the option branch without a value
//	53300     a maximum is reached
//	57P03     the branch could not be started or not in time, or bough stops
//
// A CancelRequest is matched, with its whole secret of any length, against the
// keys of the sessions of the moment. Each Postgres draws its keys alone, so
// several may have given out the same: all of them get the request. The client's
// connection is closed once they have taken it; no answer is given, and none when
// nobody has the key, as in Postgres.
//
// # Security
//
// Clients are hostile until Postgres has authenticated them; Postgres does
// that, the door sees no password. Before that, a client can make the door read at
// most 10 004 bytes at a time, for Options.HandshakeTimeout, in one of
// Options.MaxHandshakes places, and, if it knows a name, wake a branch; it can
// learn which names exist. Names are checked against the grammar before they go to
// the Waker or a log. Errors of a Waker stay in the log. Quoted text is bounded
// and cleaned of control characters.
//
// The roles in Options.ReservedRoles (postgres) cannot enter here at all: the
// administrator's way is the private socket. Postgres sees the door's address,
// not the client's, so pg_hba.conf cannot tell clients apart by address, and must
// demand SCRAM of all. A key in the table of cancel keys is found by a map lookup,
// not in constant time, as in Postgres before version 17.
//
// The port is in clear text: expose it to networks that are trusted.
//
// # Limits
//
// Sessions (Options.MaxSessions, and MaxBranchSessions of one branch),
// newcomers (MaxHandshakes; more wait in the listen queue), cancel keys of 1024
// bytes, 16 KiB of a server's words held back. A session takes two sockets and,
// once it has moved bytes, two pipes: six descriptors. Its memory is two
// goroutines and, up to ReadyForQuery, a buffer of 4 KiB; what a slow reader has
// not taken stays in the kernel's buffers and holds up the sender.
//
// # Concurrency
//
// One goroutine per client, a second one while bytes are copied, one per Wake
// under way. All belong to the Serve that accepted them, which returns after the
// last. Clients without a backend are bound to a context that ends when Shutdown
// begins, those with one to its parent, which ends when Shutdown loses patience.
package proxy
