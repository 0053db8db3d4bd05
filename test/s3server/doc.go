// Package s3server runs a real S3 server for tests: Versity's gateway over a
// directory, on a port of this machine's loopback that nobody else has.
//
// # Use
//
//	func TestSomething(t *testing.T) {
//		srv := s3server.ForTest(t)
//		store, err := s3store.Open(t.Context(), srv.NewURL(t, ""), s3store.Options{})
//
// [ForTest] starts the server, puts its credentials into the environment of the test
// and takes it down in the end. Programs call [Start] and [Server.Close], and hand
// [Server.Env] to the processes that they start. [Server.URL] is the store's URL, as
// bough takes it.
//
// The program is bin/versitygw, which `make bin/versitygw` builds from a module of its
// own, tools/versitygw. A test is skipped where it is not built, unless
// BOUGH_VERSITYGW names it, as `make test` does.
//
// # Invariants
//
//  1. The server does not outlive the process that started it, however that ends:
//     the kernel kills it.
//  2. Nobody else answers under its address: the credentials are random, and the
//     bucket is made with them before Start returns.
//  3. The bucket is made by request, as the gateway wants it: a directory made by
//     hand lacks what it keeps in attributes.
//
// # Requests
//
// [Server.Requests] returns the server's access log, one line for each request that has
// ended, in the format of Amazon's: a test that says "nothing was asked meanwhile"
// compares two counts.
//
// # What it does not do
//
// The gateway does not sync what it stores: this is no place for crashes of the
// machine, or for data that anybody wants to keep.
package s3server
