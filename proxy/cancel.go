package proxy

import (
	"context"
	"io"
	"slices"
	"sync"
)

// cancelKeys maps cancel keys to the addresses of the backends that gave them
// out. Each Postgres draws its keys alone, so two may give out the same one.
// The zero value is ready; safe for concurrent use.
type cancelKeys struct {
	mu    sync.Mutex
	addrs map[string][]string
}

// add records that the backend at addr gave out key. The key is forgotten when
// the returned function is called, once.
func (k *cancelKeys) add(key, addr string) (forget func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.addrs == nil {
		k.addrs = make(map[string][]string)
	}
	k.addrs[key] = append(k.addrs[key], addr)
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		addrs := k.addrs[key]
		i := slices.Index(addrs, addr)
		if addrs = slices.Delete(addrs, i, i+1); len(addrs) == 0 {
			delete(k.addrs, key)
			return
		}
		k.addrs[key] = addrs
	}
}

// holders returns the addresses of the backends that gave out key, each once.
func (k *cancelKeys) holders(key string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	addrs := slices.Clone(k.addrs[key])
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// len returns the number of keys, for the statistics.
func (k *cancelKeys) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.addrs)
}

// forwardCancel passes a cancel request to every backend that gave out its
// key, and returns when each has closed the connection, which is how Postgres
// says that the signal is sent. A key that nobody gave out is dropped without
// a word, as in Postgres.
func (s *Server) forwardCancel(ctx context.Context, c *cancelRequest) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.HandshakeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, addr := range s.keys.holders(c.key) {
		wg.Go(func() {
			if err := s.sendCancel(ctx, addr, c.raw); err != nil {
				s.log.Warn("cancel request not delivered", "addr", addr, "err", err)
			}
		})
	}
	wg.Wait()
}

// sendCancel delivers one cancel request and waits for the end of the connection.
func (s *Server) sendCancel(ctx context.Context, addr string, raw []byte) error {
	conn, err := s.dial(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interruptOn(ctx, conn)()
	if _, err := conn.Write(raw); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(conn, packetBytesMax))
	return err
}
