package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Codes that take the place of a protocol version in a first packet.
const (
	codeCancelRequest = 1234<<16 | 5678
	codeSSLRequest    = 1234<<16 | 5679
	codeGSSENCRequest = 1234<<16 | 5680

	protocolMajor = 3
)

// packetBytesMax bounds a first packet without its length word, as
// MAX_STARTUP_PACKET_LENGTH does in Postgres.
const packetBytesMax = 10000

// request is what a client asked for with its first packets: exactly one of
// its fields is set.
type request struct {
	startup *startup
	cancel  *cancelRequest
}

// cancelRequest is a CancelRequest packet.
type cancelRequest struct {
	raw []byte // the whole packet, with its length word
	key string // process id and secret, as they stand in the packet
}

// readRequest reads first packets from rw until one says what the client wants,
// and answers the requests for encryption on the way. It reads no byte beyond
// that packet, so that what follows can be handed on by the kernel, and so that
// bytes sent in clear before an encryption handshake can never slip into it.
//
// The error is an *Error when the client is owed an answer.
func readRequest(rw io.ReadWriter) (request, error) {
	var askedTLS, askedGSS bool
	for {
		packet, err := readPacket(rw)
		if err != nil {
			return request{}, err
		}
		code := binary.BigEndian.Uint32(packet[4:8])
		switch {
		case code == codeSSLRequest && !askedTLS:
			askedTLS = true
		case code == codeGSSENCRequest && !askedGSS:
			askedGSS = true
		case code == codeCancelRequest:
			// A process id and a secret of at least one byte.
			if len(packet) <= 12 {
				return request{}, fmt.Errorf("read cancel request: %d bytes are too few", len(packet))
			}
			return request{cancel: &cancelRequest{raw: packet, key: string(packet[8:])}}, nil
		case code>>16 == protocolMajor:
			st, err := parseStartup(packet)
			return request{startup: st}, err
		default:
			return request{}, refuse(codeUnsupported, "Use a client that speaks version 3 of the protocol.",
				"unsupported frontend protocol %d.%d: server supports 3.x", code>>16, code&0xffff)
		}
		// Neither kind of encryption is offered: the client goes on in clear, or leaves.
		if _, err := rw.Write([]byte{'N'}); err != nil {
			return request{}, fmt.Errorf("answer encryption request: %w", err)
		}
	}
}

// readPacket reads one packet without a type byte: a length that includes
// itself, then at least a code. It allocates only once the length is known to
// be within bounds.
func readPacket(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read packet length: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 8 || n > packetBytesMax+4 {
		return nil, refuse(codeProtocol, "This port speaks the Postgres protocol, without TLS.",
			"invalid length of startup packet")
	}
	packet := make([]byte, n)
	copy(packet, head[:])
	if _, err := io.ReadFull(r, packet[4:]); err != nil {
		return nil, fmt.Errorf("read packet of %d bytes: %w", n, err)
	}
	return packet, nil
}
