package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// relay copies between a client and the backend that greeted it until the
// connection has ended on both sides, or ctx does. What the server says is
// looked at up to its first ReadyForQuery; from there on, and in the other
// direction from the start, the kernel moves the bytes (splice). relay closes
// both connections.
func (s *Server) relay(ctx context.Context, client net.Conn, b *backend) error {
	defer client.Close()
	defer b.conn.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		b.conn.Close()
	})()

	up := make(chan struct{})
	go func() {
		defer close(up)
		relayUp(b.conn, client)
	}()
	err := s.relayDown(ctx, client, b)
	if b.forget != nil {
		b.forget()
	}
	// The server has ended, or the client no longer listens. The other direction
	// gets a little time: closing the client's connection with input unread would
	// reset it, and what it was sent last could be lost.
	closeWrite(client)
	limit := time.Now().Add(lingerTimeout)
	_ = client.SetReadDeadline(limit)
	_ = b.conn.SetWriteDeadline(limit)
	<-up
	return err
}

// relayUp copies what the client sends. A client that only ends its own side
// still gets its answers, for as long as they take; after an error the other
// direction gets a little time to deliver the server's last words.
func relayUp(server, client net.Conn) {
	_, err := io.Copy(server, client)
	closeWrite(server)
	if err != nil {
		_ = server.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	_, _ = io.Copy(io.Discard, client)
}

// relayDown copies what the server sends, beginning with what greet held back.
func (s *Server) relayDown(ctx context.Context, client net.Conn, b *backend) error {
	if err := s.relayGreeting(ctx, client, b); err != nil || !b.scan.ready {
		return err
	}
	b.scan = nil
	_, err := io.Copy(client, b.conn)
	return err
}

// relayGreeting copies and follows the server's messages up to ReadyForQuery
// or the end of the connection.
func (s *Server) relayGreeting(ctx context.Context, client net.Conn, b *backend) error {
	buf := s.buffer()
	defer s.release(buf)
	for p := b.held; ; {
		if b.scan.key != "" && b.forget == nil {
			// Before the client can know the key, so that it can use it at once.
			b.forget = s.keys.add(b.scan.key, b.addr)
		}
		if _, err := client.Write(p); err != nil {
			return err
		}
		if b.scan.ready {
			return nil
		}
		n, err := b.conn.Read(*buf)
		if n == 0 && err != nil {
			if !b.scan.failed && b.scan.between() {
				answer(ctx, client, refuse(codeCannotConnect, "Connect again.",
					"the server ended the connection before it was ready"))
			}
			return fmt.Errorf("read greeting: %w", err)
		}
		p = (*buf)[:n]
		if err := b.scan.feed(p); err != nil {
			return err
		}
	}
}
