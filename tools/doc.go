// Package tools pins the programs that check bough's code, in a module of its own
// so that their dependencies never enter the product's go.mod. `make lint` builds
// and runs them. The directories below are modules of the same kind, for programs that
// the tests run: versitygw is an S3 server.
package tools
