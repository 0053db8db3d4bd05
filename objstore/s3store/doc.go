// Package s3store is an object store in a bucket of Amazon S3, or of a server that
// speaks its protocol and keeps its promises: each object of the store is one object
// below a prefix of the bucket, and nothing else is in it.
//
// # Words
//
//   - location: the URL of a store, parsed: [Location], [ParseURL].
//   - call: one of the five of objstore.Store. It makes one request, or more.
//   - ambiguous: of a failure that leaves open whether a request was, or will be,
//     carried out.
//   - hedge: a second request for the same bytes, while the first is still under way.
//
// # Requests
//
//	Get     GET                             the whole object
//	ReadAt  GET, Range: bytes=FIRST-LAST    a part of it; bytes=-N from its end
//	Put     PUT, If-None-Match: * | If-Match: ETAG
//	List    GET, list-type=2, start-after   1000 objects a page
//	Delete  DELETE
//
// A HEAD follows where an answer does not say enough: about a read that lies outside
// of the object, and about a large put under which the server closed the connection.
// A read of little that begins far before the end is two GETs. The tag of an object
// is its ETag without quotes. Store.Open makes no request, and neither does time:
// a store that nobody calls costs nothing.
//
// # What is repeated
//
// This package repeats requests itself; the SDK's own repetition is off, for it
// repeats a put whose answer was lost, and the put that won is told that it lost.
//
//   - Get, ReadAt, List and Delete are repeated after answers of the kind 5xx or
//     SlowDown, after timeouts, broken connections, and bodies that are short or do
//     not match their checksum: with pauses from 50 ms to 5 s, of which up to a half
//     is left out at random, until the context ends or for [Options.RetryFor].
//     Repeating a delete does what the first one may yet do, even without it.
//   - Put is repeated only when it is certain that it was not and will not be
//     carried out: no connection came about; the server refused the signature; the
//     server says that another put was under way (409); or the connection broke
//     before all of the body had left. In the last case it first asks whether the
//     condition still holds, for a server that refuses a large put often closes the
//     connection under it, and the reason is lost. Everything else is returned:
//     it may or may not have happened.
//   - A refused signature is tried once more: with the server's clock, if it was
//     about time, else with credentials read anew. Once a request has succeeded, it
//     is tried for as long as other failures: keys can be replaced in the shared
//     file under a running program.
//
// What cannot pass is returned at once, as one line that says what to do: no bucket,
// no permission, another region, no credentials, no such host, a certificate.
//
// # Slow reads
//
// A ranged read that takes three times as long as nine of ten recent ones gets a
// hedge; the first answer counts, the other request is cancelled and waited for.
// Hedges are at most one in twenty reads in the long run, so that they cannot keep
// a struggling server down, and none are for reads of more than 1 MiB. There is a
// limit on the time of every request, in proportion to its body, and the kernel is
// told to give up connections whose other end is silent (TCP_USER_TIMEOUT).
//
// # Invariants
//
//  1. objstore.ErrNotExist is returned only for a NoSuchKey of the server. A missing
//     bucket, a 404 of something in between, a refusal: none of them is "not there".
//  2. objstore.ErrExists and ErrMismatch are returned only when the server has been
//     asked and the condition did not hold.
//  3. No ambiguous put is repeated.
//  4. Every body has the length that was announced, and a part of an object is the
//     part that was asked for. A whole object matches the checksum that the server
//     sends with it, if it sends one.
//  5. Every put carries its length, the SHA-256 of its body under the signature, and
//     its CRC-32C: a server cannot take a part of it for the whole.
//  6. Nothing touches a caller's buffer after the call.
//  7. Credentials are in no error, no log and no URL.
//
// A bit that flips in a part of an object is not noticed here: no checksum of the
// store covers parts. Whoever reads parts checks them, as package cow does.
//
// # Credentials
//
// They are found as the SDK finds them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
// the shared files under ~/.aws (AWS_PROFILE, or profile= in the URL), web identity,
// the role of a container, the role of a machine. docs/s3.md is the manual.
//
// # Format
//
// None: see package objstore. Keys below the prefix are keys of the store; others
// that somebody has put there are passed over by List.
//
// # Concurrency
//
// All methods may be called concurrently, from any number of processes and hosts.
// There are at most [Options.Conns] connections; a call waits for one, and the wait
// counts as time of its request.
//
// # Limits
//
// Get takes up to 1 GiB. A put is one request: up to 5 GiB, on Amazon. Listings must
// be sorted, which those of Amazon's directory buckets are not. Nothing is done about
// old versions: a bucket with versioning keeps what is deleted until a rule of its own
// removes it.
package s3store
