package s3store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"golang.org/x/sys/unix"
)

// Settings of the connections.
const (
	dialTime = 10 * time.Second
	// idleTime is shorter than what servers and the boxes in between allow, so
	// that a request seldom meets a connection that is being closed.
	idleTime = 50 * time.Second
	// continueTime is how long a large put waits for the server's word that it
	// wants the body. A server that knows no better gets it after that.
	continueTime = 300 * time.Millisecond
	// deadTime is how long data may stay unacknowledged by the peer's kernel
	// before a connection counts as broken: what a partition looks like.
	deadTime = 15 * time.Second
	// bufferBytes are those of a connection, in each direction.
	bufferBytes = 64 << 10
	// credentialsTime bounds the search for credentials, which may ask servers.
	credentialsTime = 20 * time.Second
	// credentialsEarly is how long before they expire credentials are replaced.
	credentialsEarly = 2 * time.Minute
)

// Environment of Amazon's region if the endpoint is somebody else's.
const otherRegion = "us-east-1"

// chain finds credentials as the SDK does: in the environment, in the shared files,
// from the role of a container or machine. It reads them anew each time it is asked,
// so that keys that were replaced in a file are found.
type chain struct {
	load func(context.Context) (aws.Config, error)
	// worked: credentials were found once; an error is then one of the moment.
	worked atomic.Bool
}

// searchError is an error of the search for credentials.
type searchError struct{ err error }

// Error returns what the search said.
func (e *searchError) Error() string { return "no credentials: " + e.err.Error() }

// Unwrap returns the error of the SDK.
func (e *searchError) Unwrap() error { return e.err }

func isSearch(err error) bool {
	var search *searchError
	return errors.As(err, &search)
}

// Retrieve searches.
func (c *chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, credentialsTime)
	defer cancel()
	cfg, err := c.load(ctx)
	if err != nil {
		return aws.Credentials{}, &searchError{err}
	}
	found, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, &searchError{err}
	}
	c.worked.Store(true)
	return found, nil
}

// credentials are a chain with a cache that can be emptied.
type credentials struct {
	chain *chain
	cache *aws.CredentialsCache

	mu       sync.Mutex
	replaced time.Time
}

// replaceEvery bounds how often refused credentials are searched for anew.
const replaceEvery = 5 * time.Second

// replace forgets credentials that a server has refused, unless it has done so a
// moment ago.
func (c *credentials) replace(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.replaced) >= replaceEvery {
		c.replaced = now
		c.cache.Invalidate()
	}
}

// newClient returns a client for the location; it makes no request.
func newClient(ctx context.Context, loc Location, opts Options) (*s3.Client, *http.Transport, *credentials, error) {
	set := []func(*config.LoadOptions) error{config.WithLogger(sdkLog(opts.Logger))}
	if loc.Region != "" {
		set = append(set, config.WithRegion(loc.Region))
	}
	if loc.Profile != "" {
		set = append(set, config.WithSharedConfigProfile(loc.Profile))
	}
	load := func(ctx context.Context) (aws.Config, error) { return config.LoadDefaultConfig(ctx, set...) }
	cfg, err := load(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the shared configuration for %s: %w", loc.Name(), err)
	}
	transport := newTransport(cfg, opts.Conns)
	creds := &credentials{chain: &chain{load: load}}
	creds.cache = aws.NewCredentialsCache(creds.chain, func(o *aws.CredentialsCacheOptions) {
		o.ExpiryWindow, o.ExpiryWindowJitterFrac = credentialsEarly, 0.5
	})
	cfg.Credentials = creds.cache
	var trip http.RoundTripper = transport
	if opts.Wrap != nil {
		trip = opts.Wrap(trip)
	}
	cfg.HTTPClient = &http.Client{
		Transport: trip,
		// A redirect is the answer of a bucket in another region: an error that
		// says so, and not a reason to sign for another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// This package repeats requests itself: it knows which ones it may repeat.
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	cfg.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	cfg.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if loc.Endpoint != "" {
			o.BaseEndpoint = &loc.Endpoint
		}
		o.UsePathStyle = o.BaseEndpoint != nil
		if loc.PathStyle != nil {
			o.UsePathStyle = *loc.PathStyle
		}
		if o.Region == "" && o.BaseEndpoint != nil {
			o.Region = otherRegion
		}
		// A server that keeps no checksums gets no line in our log for it.
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	if client.Options().Region == "" {
		return nil, nil, nil, fmt.Errorf("no region for %s: add ?region=NAME to the URL, or set AWS_REGION", loc.Name())
	}
	return client, transport, creds, nil
}

// sdkLog passes on what the SDK has to say. It has no secrets in it, unless it is
// asked to log requests, which it is not.
func sdkLog(log *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(_ logging.Classification, format string, args ...any) {
		log.Debug("SDK: " + fmt.Sprintf(format, args...))
	})
}

// newTransport returns the SDK's transport, which knows about AWS_CA_BUNDLE and
// proxies, with connections for many requests at once.
func newTransport(cfg aws.Config, conns int) *http.Transport {
	buildable, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		buildable = awshttp.NewBuildableClient()
	}
	t := buildable.GetTransport()
	dialer := &net.Dialer{
		Timeout:         dialTime,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deadTime / 3, Interval: deadTime / 3, Count: 2},
		Control:         setDeadTime,
	}
	t.DialContext = dialer.DialContext
	t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 0, conns, conns
	t.IdleConnTimeout, t.ExpectContinueTimeout = idleTime, continueTime
	t.ReadBufferSize, t.WriteBufferSize = bufferBytes, bufferBytes
	// Bodies are counted and checked as they are stored.
	t.DisableCompression = true
	// One connection for each request under way: over a shared one (HTTP/2) a
	// lost packet holds up all of them.
	t.ForceAttemptHTTP2 = false
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	return t
}

// setDeadTime makes the kernel give up a connection whose peer acknowledges
// nothing any more, however much it has been handed to send.
func setDeadTime(_, _ string, conn syscall.RawConn) error {
	var err error
	if cerr := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadTime/time.Millisecond))
	}); cerr != nil {
		return cerr
	}
	return err
}
