package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The SQLSTATEs the door answers with.
const (
	codeProtocol       = "08P01" // protocol_violation
	codeUnsupported    = "0A000" // feature_not_supported
	codeAuthorization  = "28000" // invalid_authorization_specification
	codeUnknownBranch  = "3D000" // invalid_catalog_name
	codeSyntax         = "42601" // syntax_error
	codeTooMany        = "53300" // too_many_connections
	codeCannotConnect  = "57P03" // cannot_connect_now
	messageBytesMax    = 1024    // of one field of an answer, however long the name it quotes
	errorResponseType  = 'E'
	errorFieldSeverity = 'S'
	errorFieldCode     = 'C'
)

// ErrNotFound is what a Waker wraps when the project or the branch does not
// exist. The client is told so with SQLSTATE 3D000.
var ErrNotFound = errors.New("no such branch")

// ErrClosed is returned by Serve on a server that was shut down before.
var ErrClosed = errors.New("server closed")

// Error is an answer to a client, sent as an ErrorResponse of severity FATAL.
// A Waker may return one (wrapped or not) to choose the client's words; any
// other error of a Waker is logged, and the client gets a general answer, since
// whoever reads it has not authenticated yet.
type Error struct {
	// Code is the SQLSTATE, five characters.
	Code string
	// Message is one line that says what is wrong.
	Message string
	// Hint is one line that says what to do. It may be empty.
	Hint string
}

// Error returns the message with its SQLSTATE.
func (e *Error) Error() string {
	return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code)
}

// refuse makes an Error; the format's arguments may be hostile, and are cut
// and cleaned when the answer is encoded.
func refuse(code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)}
}

// encode returns e as one ErrorResponse message.
func (e *Error) encode() []byte {
	p := []byte{errorResponseType, 0, 0, 0, 0}
	field := func(kind byte, text string) {
		if text == "" {
			return
		}
		p = append(append(append(p, kind), fieldText(text)...), 0)
	}
	field(errorFieldSeverity, "FATAL")
	field('V', "FATAL")
	field(errorFieldCode, e.Code)
	field('M', e.Message)
	field('H', e.Hint)
	p = append(p, 0)
	binary.BigEndian.PutUint32(p[1:5], uint32(len(p)-1))
	return p
}

// fieldText makes text fit for a field: valid UTF-8, one line, no control
// characters (a zero would end the field early, an escape would drive the
// reader's terminal), bounded.
func fieldText(text string) string {
	if len(text) > messageBytesMax {
		text = text[:messageBytesMax] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// errorCode returns the SQLSTATE in the body of an ErrorResponse, or "".
func errorCode(body []byte) string {
	for len(body) > 0 && body[0] != 0 {
		end := 1
		for end < len(body) && body[end] != 0 {
			end++
		}
		if body[0] == errorFieldCode {
			return string(body[1:end])
		}
		body = body[min(end+1, len(body)):]
	}
	return ""
}
