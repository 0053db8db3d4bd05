package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
)

// socketPathMax is the longest path a unix socket can have on Linux
// (sockaddr_un.sun_path, less the terminating zero).
const socketPathMax = 107

// ErrSocketInUse is returned by [Listen] for a socket that another process
// answers on.
var ErrSocketInUse = errors.New("socket in use")

// Listen makes the daemon's socket at path with mode 0600. A socket that a
// killed daemon left behind is replaced; one that answers is ErrSocketInUse,
// and anything else at path is an error and left alone.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > socketPathMax {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes and a unix socket's may have %d: choose a shorter state directory",
			path, len(path), socketPathMax)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Between bind and chmod the umask decides who may connect; the check of
	// peer credentials on every request covers that moment.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file of that name that is not a socket: move it away")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(ErrSocketInUse, conn.Close())
	}
	return os.Remove(path)
}
