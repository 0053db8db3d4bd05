package s3store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/bough-db/bough/objstore"
)

var (
	// errServer: the server's answer cannot be.
	errServer = errors.New("the server answers as no S3 server does")
	// errShort: a body ended before, or went on after, its announced length.
	errShort = errors.New("body of another length than announced")
	// errMoved: an object was replaced or removed between two requests about it.
	errMoved = errors.New("object changed while it was read")
)

// The codes of errors that mean something to this package.
const (
	codeNoSuchKey    = "NoSuchKey"
	codeNoSuchBucket = "NoSuchBucket"
	codePrecondition = "PreconditionFailed"
	codeSkewed       = "RequestTimeTooSkewed"
	codeInvalidRange = "InvalidRange"
)

// codeOf returns the code of the server's answer, empty if there is none.
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// response returns the HTTP response that became err, or nil.
func response(err error) *http.Response {
	var r *smithyhttp.ResponseError
	if errors.As(err, &r) && r.Response != nil && r.Response.Response != nil && r.Response.StatusCode != 0 {
		return r.Response.Response
	}
	return nil
}

func statusOf(err error) int {
	if r := response(err); r != nil {
		return r.StatusCode
	}
	return 0
}

// verdict says whether a request that failed is repeated.
type verdict int

const (
	// final: a new try would fare no better, or might do harm.
	final verdict = iota
	// transient: it may pass.
	transient
	// conflict: another put of the key was under way, and this one was not done.
	conflict
	// renewed: the server refused the signature, and the next one will be other.
	renewed
)

// judgeSignature decides about the n-th request of a call, which was not carried out
// because of its signature. Where none was ever accepted, somebody is waiting to hear
// what is wrong with it; else somebody is, perhaps, about to mend it.
func (s *Store) judgeSignature(n int) verdict {
	switch {
	case n == 1:
		return renewed
	case s.accepted.Load():
		return transient
	}
	return final
}

// judge decides about the error of the n-th request of a call. A put is repeated only when it is
// certain that the one before was not and will not be carried out.
func (s *Store) judge(c call, n int, err error) verdict {
	code, status := codeOf(err), statusOf(err)
	switch code {
	case "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException":
		// The server looks at the signature before anything else.
		s.creds.replace(time.Now())
		return s.judgeSignature(n)
	case codeSkewed:
		// The SDK has read the server's clock, and signs by it from now on.
		return s.judgeSignature(n)
	case "ConditionalRequestConflict", "OperationAborted":
		if status == http.StatusConflict && c.verb == objstore.VerbPut {
			return conflict
		}
	}
	if neverSent(err) || errors.Is(err, errUnsent) {
		return transient
	}
	if c.verb == objstore.VerbPut {
		return final
	}
	switch {
	case errors.Is(err, errSlow), errors.Is(err, errShort), errors.Is(err, errMoved), errors.Is(err, errBody):
		return transient
	case errors.Is(err, errTooLarge):
		return final
	case errors.Is(err, errServer), errors.Is(err, errRange):
		// Something in between may have spoiled one answer, but not three.
		if n < 3 {
			return transient
		}
		return final
	case isSearch(err):
		if s.creds.chain.worked.Load() {
			return transient
		}
		return final
	case status >= 500 && status != http.StatusNotImplemented, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout,
		code == "SlowDown", code == "RequestTimeout", code == "Throttling", code == "InternalError":
		return transient
	case status >= 300:
		return final
	case forGood(err):
		return final
	}
	return transient // a connection that broke, perhaps under an answer
}

// neverSent tells whether no byte of a request has left.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !forGood(err)
}

// forGood tells whether an error of a connection is one of its settings.
func forGood(err error) bool {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return errors.As(err, &cert) || errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// explain turns an error of a request into one for the caller: a sentinel of the
// contract where there is one, else one line that says what to do.
func (s *Store) explain(c call, err error) error {
	wrap := func(format string, args ...any) error {
		return fmt.Errorf("%v in %s: %w", c, s.loc.Name(), fmt.Errorf(format, args...))
	}
	for _, known := range []error{objstore.ErrNotExist, objstore.ErrExists, objstore.ErrMismatch, errDamage} {
		if errors.Is(err, known) {
			return fmt.Errorf("%v: %w", c, known)
		}
	}
	code, status, said := codeOf(err), statusOf(err), s.said(err)
	if c.verb != objstore.VerbPut && code == codeNoSuchKey && status == http.StatusNotFound {
		return fmt.Errorf("%v: %w", c, objstore.ErrNotExist)
	}
	switch code {
	case codeNoSuchBucket:
		return wrap("there is no bucket %q: create it, or correct the URL of the store", s.loc.Bucket)
	case "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return wrap("%s: the bucket is in another region: %s", said, s.advise(err))
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		return wrap("%s: allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket", said)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return wrap("%s: correct the access key or its secret in the environment or in ~/.aws/credentials", said)
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException":
		return wrap("%s: get new credentials; those in ~/.aws/credentials are read again when the old ones are refused", said)
	case codeSkewed:
		return wrap("%s: set the clock of this machine, which says %s", said, time.Now().UTC().Format(time.RFC3339))
	case "XMinioStorageFull", "QuotaExceeded":
		return wrap("%w (%s)", objstore.ErrFull, said)
	}
	switch {
	case isSearch(err):
		return wrap("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials, or give this machine a role (%s)", said)
	case status == http.StatusInsufficientStorage:
		return wrap("%w (%s)", objstore.ErrFull, said)
	case status == http.StatusNotFound:
		return wrap("%s: the answer is not about the object: is the endpoint that of an S3 server?", said)
	case status == http.StatusForbidden:
		return wrap("%s: allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket", said)
	case status >= 300 && status < 400:
		return wrap("%s: the bucket is elsewhere: %s", said, s.advise(err))
	case status >= 300:
		return wrap("%s", said)
	case forGood(err):
		return wrap("%s: does endpoint= say http or https as the server does, and is its certificate known here (AWS_CA_BUNDLE)?", said)
	case neverSent(err):
		return wrap("%s: is the endpoint right, and does the server run?", said)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return wrap("%w", err)
	}
	return wrap("%s", said)
}

// advise says how to reach a bucket that is in another region.
func (s *Store) advise(err error) string {
	if r := response(err); r != nil {
		if region := r.Header.Get("X-Amz-Bucket-Region"); isName(region) {
			return "write region=" + region + " in the URL of the store"
		}
	}
	return "write its region=… and endpoint=… in the URL of the store"
}

// said returns what the server said, or what happened to the connection, as one
// line without the SDK's frame around it.
func (s *Store) said(err error) string {
	var api smithy.APIError
	if r := response(err); r != nil && r.StatusCode >= 300 {
		line := fmt.Sprintf("%d %s", r.StatusCode, http.StatusText(r.StatusCode))
		if errors.As(err, &api) && api.ErrorCode() != "UnknownError" {
			line = fmt.Sprintf("%d %s", r.StatusCode, api.ErrorCode())
			if m := api.ErrorMessage(); m != "" {
				line += ": " + m
			}
		}
		if id := r.Header.Get("X-Amz-Request-Id"); id != "" {
			line += " (request " + id + ")"
		}
		return shorten(line)
	}
	// The innermost of the frames: the search for credentials, or what happened to
	// the request, of which the URL is said already.
	var search *searchError
	var send *smithyhttp.RequestSendError
	var at *url.Error
	var parse *smithy.DeserializationError
	switch {
	case errors.As(err, &search):
		err = search.err
	case errors.As(err, &at):
		err = at.Err
	case errors.As(err, &parse):
		err = parse.Err
	case errors.As(err, &send):
		err = send.Err
	}
	return oneLine(err)
}

// oneLine returns the error's text as one line of bounded length.
func oneLine(err error) string { return shorten(err.Error()) }

// textMax bounds what of a server's answer goes into an error, in bytes.
const textMax = 300

func shorten(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > textMax {
		text = strings.ToValidUTF8(text[:textMax], "") + "…"
	}
	return text
}
