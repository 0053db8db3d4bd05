package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of error an [Error] is. Programs decide by it; people
// read the message.
type Code string

// The codes, grouped by whose turn it is: the caller's, the operator's, ours.
const (
	// CodeInvalidRequest is a body, field or path that makes no sense.
	CodeInvalidRequest Code = "invalid_request"
	// CodeInvalidName is a project or branch name outside the grammar.
	CodeInvalidName Code = "invalid_name"
	// CodeForbidden is a caller who is neither root nor the daemon's user.
	CodeForbidden Code = "forbidden"
	// CodeNotFound is a project, branch or route that does not exist.
	CodeNotFound Code = "not_found"
	// CodeMethodNotAllowed is a route asked with the wrong method.
	CodeMethodNotAllowed Code = "method_not_allowed"
	// CodeAlreadyExists is a name that is taken.
	CodeAlreadyExists Code = "already_exists"
	// CodeInUse is a branch that something else holds: a mount, another writer.
	CodeInUse Code = "in_use"
	// CodeNoPoint is a moment that the branch does not have; the message has the
	// nearest one.
	CodeNoPoint Code = "no_point"
	// CodeProtected is a branch that may neither be deleted nor restored.
	CodeProtected Code = "protected"
	// CodeTooLarge is a request body above the limit.
	CodeTooLarge Code = "too_large"

	// CodeUnavailable is a daemon that is starting, stopping or at its limit.
	CodeUnavailable Code = "unavailable"
	// CodeNoSpace is a full disk or an exhausted budget; nothing is lost.
	CodeNoSpace Code = "no_space"
	// CodeNewerFormat is a store written by a newer version of bough.
	CodeNewerFormat Code = "newer_format"
	// CodeFenced is a branch that another host took over.
	CodeFenced Code = "fenced"
	// CodeCorrupt is data whose checksum does not agree.
	CodeCorrupt Code = "corrupt"
	// CodeTimeout is work that did not end within its time.
	CodeTimeout Code = "timeout"

	// CodeInternal is everything else.
	CodeInternal Code = "internal"
)

// Status returns the HTTP status that goes with the code.
func (c Code) Status() int {
	switch c {
	case CodeInvalidRequest, CodeInvalidName:
		return http.StatusBadRequest
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound, CodeNoPoint:
		return http.StatusNotFound
	case CodeMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case CodeAlreadyExists, CodeInUse, CodeFenced, CodeProtected:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	case CodeNoSpace:
		return http.StatusInsufficientStorage
	case CodeTimeout:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// Error is the one error shape of the interface. The server turns every other
// error into one with CodeInternal; the client returns it as *Error.
type Error struct {
	// Code is the kind, for programs.
	Code Code `json:"code"`
	// Message is one line for a person: lower case, no full stop.
	Message string `json:"message"`
	// Hint says what to do about it, as one line; it may be empty.
	Hint string `json:"hint,omitempty"`
}

// Error returns the message, and the hint after a colon when there is one.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ": " + e.Hint
}

// Is reports whether target is an *Error with the same code and no message:
// errors.Is(err, &api.Error{Code: api.CodeNotFound}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// Errorf returns an Error with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e with the hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// CodeOf returns the code of the *Error that err is or wraps, CodeInternal for
// any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// ErrorBody is the body of every answer that is not a success.
type ErrorBody struct {
	// Error is what went wrong; nil only in a body that is not ours.
	Error *Error `json:"error"`
}
