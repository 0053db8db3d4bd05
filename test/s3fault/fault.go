package s3fault

import (
	"net/http"
	"strings"
)

// Op is what a request asks for.
type Op string

// The operations. Any stands for all of them in rules and rates.
const (
	Any    Op = ""
	Get    Op = "get"    // Get is a GET of an object, whole or a part.
	Head   Op = "head"   // Head is a HEAD of an object.
	Put    Op = "put"    // Put is a PUT of an object.
	List   Op = "list"   // List is a GET of a listing.
	Delete Op = "delete" // Delete is a DELETE of an object.
)

// opOf returns what a request asks for.
func opOf(r *http.Request) Op {
	switch r.Method {
	case http.MethodHead:
		return Head
	case http.MethodPut:
		return Put
	case http.MethodDelete:
		return Delete
	}
	if r.URL.Query().Has("list-type") {
		return List
	}
	return Get
}

// Fault is what a request meets.
type Fault string

// Faults in which the server does nothing.
const (
	// None passes the request on; together with Rule.Wait it is a delay.
	None Fault = ""
	// Internal is 500 InternalError.
	Internal Fault = "500 before"
	// SlowDown is 503 SlowDown.
	SlowDown Fault = "503 slow down"
	// Conflict is 409 ConditionalRequestConflict.
	Conflict Fault = "409"
	// Refused is 412 PreconditionFailed.
	Refused Fault = "412"
	// Denied is 403 AccessDenied.
	Denied Fault = "403 denied"
	// Expired is 400 ExpiredToken.
	Expired Fault = "expired"
	// Skewed is 403 RequestTimeTooSkewed.
	Skewed Fault = "skewed"
	// NoBucket is 404 NoSuchBucket.
	NoBucket Fault = "no bucket"
	// Elsewhere is 301 PermanentRedirect, with the region that would be right.
	Elsewhere Fault = "elsewhere"
	// NotS3 is a 404 with a page of HTML, as something in between sends it.
	NotS3 Fault = "404 html"
	// Hang lets the client wait until it gives up.
	Hang Fault = "hang"
	// Unreached fails before a connection is made.
	Unreached Fault = "unreached"
	// ResetRequest breaks the connection in the middle of the request's body.
	ResetRequest Fault = "reset in request"
	// StaleList answers a listing as it was the last time that the same was
	// asked, if it was.
	StaleList Fault = "stale list"
)

// Faults in which the server does what it was asked for.
const (
	// InternalAfter answers 500 InternalError afterwards.
	InternalAfter Fault = "500 after"
	// Lost lets the client wait for the answer until it gives up.
	Lost Fault = "lost"
	// ResetAfter breaks the connection instead of an answer.
	ResetAfter Fault = "reset after"
	// Late lets the client wait until it gives up, and only then passes the
	// request on, after Rule.Wait.
	Late Fault = "late"
	// ResetResponse breaks the connection in the middle of the response's body.
	ResetResponse Fault = "reset in response"
	// ShortBody ends the response's body before its announced length.
	ShortBody Fault = "short body"
	// Truncated does so and announces what is left of it.
	Truncated Fault = "truncated"
	// FlipBit inverts a bit of the response's body.
	FlipBit Fault = "flipped bit"
	// FlipRequest inverts a bit of the request's body on its way to the server.
	FlipRequest Fault = "flipped bit in request"
	// WrongChecksum changes the checksum that goes with the response.
	WrongChecksum Fault = "wrong checksum"
	// WrongRange announces another part of the object.
	WrongRange Fault = "wrong range"
	// SlowBody calls Rule.Wait before every read of the response's body.
	SlowBody Fault = "slow body"
	// IgnoreRange makes the server send the whole object.
	IgnoreRange Fault = "range ignored"
	// IgnoreCondition makes a put unconditional.
	IgnoreCondition Fault = "condition ignored"
)

// answer is the response of a fault in which the server does nothing.
type answer struct {
	status        int
	code, message string
}

var answers = map[Fault]answer{
	Internal:      {500, "InternalError", "We encountered an internal error. Please try again."},
	InternalAfter: {500, "InternalError", "We encountered an internal error. Please try again."},
	SlowDown:      {503, "SlowDown", "Please reduce your request rate."},
	Conflict:      {409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation."},
	Refused:       {412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."},
	Denied:        {403, "AccessDenied", "Access Denied"},
	Expired:       {400, "ExpiredToken", "The provided token has expired."},
	Skewed:        {403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."},
	NoBucket:      {404, "NoSuchBucket", "The specified bucket does not exist"},
	Elsewhere:     {301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint."},
}

// Region is the region that Elsewhere says the bucket is in.
const Region = "eu-north-7"

// key returns the path of a request without its first part, the bucket.
func key(r *http.Request) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return rest
}
