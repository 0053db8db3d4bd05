package s3server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// ErrNotBuilt: the server's program is not there.
var ErrNotBuilt = errors.New("versitygw is not built: run `make bin/versitygw`")

const (
	bucket = "bough"
	region = "us-east-1"
	// startTime bounds the start of the server, on a busy machine too.
	startTime = time.Minute
	// starts is how often a start is tried: somebody may take the port that
	// was free.
	starts = 5
)

// Options are the settings of a server.
type Options struct {
	// Dir is where the objects go; it must exist, and keeps them when the server
	// is gone. Default: a temporary directory that Close removes.
	Dir string
	// Program is the path of versitygw. Default: BOUGH_VERSITYGW, else
	// bin/versitygw above the working directory.
	Program string
}

// Server is a running server.
type Server struct {
	dir, log, addr string
	access, secret string
	remove         bool
	output         *bytes.Buffer // of the program; complete once ended is closed
	stop           func()
	ended          chan struct{}
}

// Start starts a server and makes its bucket. The caller closes it.
func Start(ctx context.Context, opts Options) (*Server, error) {
	program, err := findProgram(opts.Program)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: opts.Dir}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "s3server"); err != nil {
			return nil, fmt.Errorf("make directory for the S3 server: %w", err)
		}
		s.remove = true
	}
	if s.access, s.secret, err = keysIn(s.dir); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.log = filepath.Join(s.dir, "access.log")
	if err := os.MkdirAll(filepath.Join(s.dir, "data"), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make directory for the S3 server: %w", err), s.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for range starts {
		if err = s.start(ctx, program); err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(fmt.Errorf("start S3 server: %w", err), s.Close())
}

// keysIn returns the access key of the directory's server and its secret, new ones if
// it has none: they own the bucket.
func keysIn(dir string) (access, secret string, err error) {
	file := filepath.Join(dir, "keys")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte("AK" + rand.Text()[:18] + " " + rand.Text())
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return "", "", fmt.Errorf("make keys for the S3 server: %w", err)
	}
	access, secret, _ = strings.Cut(string(text), " ")
	return access, secret, nil
}

// findProgram returns the path of versitygw.
func findProgram(path string) (string, error) {
	if path == "" {
		path = os.Getenv("BOUGH_VERSITYGW")
	}
	if path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("find versitygw: %w", err)
		}
		return filepath.Abs(path)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find versitygw: %w", err)
	}
	for {
		path := filepath.Join(dir, "bin", "versitygw")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", ErrNotBuilt
		}
		dir = parent
	}
}

// start makes one attempt, which leaves nothing behind if it fails.
func (s *Server) start(ctx context.Context, program string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	s.output = new(bytes.Buffer)
	cmd := exec.Command(program, "--port", s.addr, "--keep-alive", "--quiet", "--region", region, "--access-log", s.log,
		"posix", filepath.Join(s.dir, "data"))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.access, "ROOT_SECRET_KEY="+s.secret)
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.run(cmd); err != nil {
		return err
	}
	err = s.makeBucket(ctx)
	if err != nil {
		s.kill()
		if s.output.Len() > 0 {
			err = fmt.Errorf("%w; it said: %s", err, strings.TrimSpace(s.output.String()))
		}
	}
	return err
}

// run starts the process. The kernel kills it when the thread that started it ends:
// so that thread waits for it.
func (s *Server) run(cmd *exec.Cmd) error {
	started := make(chan error)
	s.ended = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed in the end; why it ended before is in its output
		}
		close(s.ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.stop = func() { _ = cmd.Process.Kill() }
	return nil
}

// kill ends the process and waits until it is gone.
func (s *Server) kill() {
	if s.stop != nil {
		s.stop()
		<-s.ended
		s.stop = nil
	}
}

// makeBucket waits until the server answers, and makes the bucket.
func (s *Server) makeBucket(ctx context.Context) error {
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint()), Region: region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s.access, s.secret, ""),
		HTTPClient:  &http.Client{Transport: transport, Timeout: 10 * time.Second},
		Retryer:     aws.NopRetryer{},
	})
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)})
		if err == nil {
			return nil
		}
		var there interface{ ErrorCode() string }
		if errors.As(err, &there) && there.ErrorCode() == "BucketAlreadyOwnedByYou" { // a directory that was used before
			return nil
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return errors.New("versitygw ended")
		case <-ctx.Done():
			return fmt.Errorf("make bucket: %w", err)
		}
	}
}

// Close ends the server and removes what Start made.
func (s *Server) Close() error {
	s.kill()
	if s.remove {
		return os.RemoveAll(s.dir)
	}
	return nil
}

// Endpoint returns the base URL of the server.
func (s *Server) Endpoint() string { return "http://" + s.addr }

// Address returns the host and port where the server listens.
func (s *Server) Address() string { return s.addr }

// URL returns the URL of a store below prefix in the server's bucket.
func (s *Server) URL(prefix string) string { return s.URLAt(s.Endpoint(), prefix) }

// URLAt is like URL for somebody who reaches the server under another base URL, such
// as that of a proxy.
func (s *Server) URLAt(endpoint, prefix string) string {
	return "s3://" + bucket + "/" + prefix + "?endpoint=" + endpoint + "&region=" + region
}

// Env returns the environment variables with which the SDK and bough find the
// server's credentials, and no others.
func (s *Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.access, "AWS_SECRET_ACCESS_KEY=" + s.secret, "AWS_SESSION_TOKEN=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// Requests returns the lines of the server's access log, one for each request that
// has ended: see the package comment.
func (s *Server) Requests() ([]string, error) {
	p, err := os.ReadFile(s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read access log: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(p), "\n"), "\n"), nil
}
