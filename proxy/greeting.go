package proxy

import (
	"encoding/binary"
	"fmt"
)

// Types of server messages that the door looks at.
const (
	typeBackendKeyData = 'K'
	typeReadyForQuery  = 'Z'
	typeNotice         = 'N'
	typeNegotiate      = 'v'
)

const (
	// keyBytesMax bounds a cancel key with its process id; protocol 3.2 allows 256 and 4.
	keyBytesMax = 1024
	// collectBytesMax bounds what is kept of one message.
	collectBytesMax = 2048
	// serverMessageBytesMax is the bound of Postgres on any message.
	serverMessageBytesMax = 1<<30 - 1
)

// greetingScan follows the messages of a server from its first byte to its
// first ReadyForQuery, however the bytes are cut. It keeps no message but the
// little that it reports, so its memory is bounded whatever the server sends.
type greetingScan struct {
	head    [5]byte // type and length of the message being read
	headLen int
	left    int    // bytes of its body still to come
	body    []byte // what is collected of its body

	// verdict is set with the first message that is more than a preamble (a
	// notice or a protocol negotiation): the server took the client in, or
	// refused it with the SQLSTATE refused.
	verdict bool
	refused string
	// failed says that an ErrorResponse was seen whole.
	failed bool
	// key is the process id and secret of BackendKeyData, "" before it was seen.
	key string
	// ready says that ReadyForQuery was seen; nothing after it is looked at.
	ready bool
}

// feed takes the next bytes from the server. The error is for bytes that are
// not the Postgres protocol.
func (g *greetingScan) feed(p []byte) error {
	for len(p) > 0 && !g.ready {
		if g.headLen < len(g.head) {
			n := copy(g.head[g.headLen:], p)
			g.headLen, p = g.headLen+n, p[n:]
			if g.headLen < len(g.head) {
				return nil
			}
			if err := g.begin(); err != nil {
				return err
			}
		}
		n := min(g.left, len(p))
		if g.collects() {
			g.body = append(g.body, p[:min(n, collectBytesMax-len(g.body))]...)
		}
		if g.left, p = g.left-n, p[n:]; g.left == 0 {
			g.end()
		}
	}
	return nil
}

// begin looks at a whole head.
func (g *greetingScan) begin() error {
	n := binary.BigEndian.Uint32(g.head[1:])
	if n < 4 || n > serverMessageBytesMax {
		return fmt.Errorf("read server message of type %q: its length %d is impossible", g.head[0], n)
	}
	g.left, g.body = int(n)-4, g.body[:0]
	switch g.head[0] {
	case errorResponseType, typeNotice, typeNegotiate:
	default:
		g.verdict = true
	}
	return nil
}

// collects reports whether the body of the current message is of interest.
func (g *greetingScan) collects() bool {
	return g.head[0] == typeBackendKeyData || g.head[0] == errorResponseType && !g.verdict
}

// end looks at a message that was read to its end.
func (g *greetingScan) end() {
	switch g.head[0] {
	case typeBackendKeyData:
		if len(g.body) > 4 && len(g.body) <= keyBytesMax {
			g.key = string(g.body)
		}
	case errorResponseType:
		if !g.verdict {
			g.refused = errorCode(g.body)
		}
		g.verdict, g.failed = true, true
	case typeReadyForQuery:
		g.ready = true
	}
	g.headLen = 0
}

// between reports whether the bytes fed so far end with a whole message.
func (g *greetingScan) between() bool { return g.headLen == 0 }
