package proxy

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCancelKeys(t *testing.T) {
	var k cancelKeys
	if got := k.holders("a"); len(got) > 0 {
		t.Errorf("an empty table knows %q", got)
	}
	forget := []func(){k.add("a", "x"), k.add("a", "y"), k.add("a", "x"), k.add("b", "z")}
	for i, want := range [][]string{{"x", "y"}, {"x", "y"}, {"x"}, {}} {
		if got := k.holders("a"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after %d were forgotten, holders are %q, want %q", i, got, want)
		}
		forget[i]()
	}
	if diff := cmp.Diff(0, k.len()); diff != "" {
		t.Errorf("keys left (-want +got):\n%s", diff)
	}
}

func TestCancelReachesItsBackend(t *testing.T) {
	longKey := "PID0" + string(make([]byte, 256))
	one, two := newFakePostgres(t), newFakePostgres(t)
	next := make(chan string, 3)
	s, addr := startDoor(t, Options{Waker: wakeTurns(next)})
	next <- one.addr
	_, oneServer := one.session(t, addr, longKey)
	next <- two.addr
	two.session(t, addr, "PID0key2")
	next <- two.addr
	two.session(t, addr, longKey) // drawn by both

	cancel := func(key string, reached ...*fakePostgres) {
		t.Helper()
		packet := packetOf(codeCancelRequest, []byte(key)...)
		c := dialPeer(t, addr)
		c.send(packet)
		for _, f := range reached {
			conn, got := f.accept(t)
			if diff := cmp.Diff(packet, got); diff != "" {
				t.Errorf("cancel request arrived changed (-want +got):\n%s", diff)
			}
			conn.Close() // the client waits for this
		}
		c.expectEnd()
	}
	cancel("PID0key2", two)
	cancel(longKey, one, two)
	cancel("PID0key3")
	cancel("PID0key2more")

	oneServer.Close()
	eventually(t, "the key of a session that ended is forgotten", func() bool { return len(s.keys.holders(longKey)) == 1 })
	cancel(longKey, two)
	if len(one.conns) > 0 {
		t.Error("a backend got a cancel request for a session that has ended")
	}
}

// TestCancelWithoutBackend cancels at a backend that does not listen any more.
func TestCancelWithoutBackend(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	f.session(t, addr, "pid+key1")
	f.stop()
	c := dialPeer(t, addr)
	c.send(packetOf(codeCancelRequest, []byte("pid+key1")...))
	c.expectEnd()
}

// TestCancelWhenFull cancels although every place is taken: that is when it is
// needed most.
func TestCancelWhenFull(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr), MaxSessions: 1})
	f.session(t, addr, "pid+key1")
	c := dialPeer(t, addr)
	c.send(packetOf(codeCancelRequest, []byte("pid+key1")...))
	conn, _ := f.accept(t)
	conn.Close()
	c.expectEnd()
}
