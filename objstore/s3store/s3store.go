package s3store

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/bough-db/bough/objstore"
)

// Options are the settings of a Store.
type Options struct {
	// Conns is how many connections the store has at most, and keeps while
	// they are used. Default: 128.
	Conns int
	// CallTime is how long one request may take, apart from its body, which gets
	// a second more for every 128 KiB. Default: 10 s.
	CallTime time.Duration
	// RetryFor is how long a call goes on repeating requests that failed for
	// reasons which may pass. Default: 2 min.
	RetryFor time.Duration
	// HedgesMax is how many second requests may be under way at a time for
	// ranged reads that are slow. -1 is none. Default: 8.
	HedgesMax int
	// Wrap returns what every HTTP request is to pass through, given the
	// transport: a seam for tests. Default: nothing more.
	Wrap func(http.RoundTripper) http.RoundTripper
	// Logger is told of requests that are being repeated. Default: nobody.
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Conns <= 0 {
		o.Conns = 128
	}
	if o.CallTime <= 0 {
		o.CallTime = 10 * time.Second
	}
	if o.RetryFor <= 0 {
		o.RetryFor = 2 * time.Minute
	}
	if o.HedgesMax == 0 {
		o.HedgesMax = 8
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats counts the requests that a store has made beyond one for each call, which
// is what package meterstore counts.
type Stats struct {
	Retries   int64 `json:"retries"`    // requests repeated after a failure
	Hedges    int64 `json:"hedges"`     // second requests for slow ranged reads
	HedgesWon int64 `json:"hedges_won"` // of those, the ones that answered first
	Pages     int64 `json:"pages"`      // further pages of long listings
}

// Store is an object store in a bucket, or below a prefix in one.
type Store struct {
	loc       Location
	opts      Options
	log       *slog.Logger
	client    *s3.Client
	transport *http.Transport
	creds     *credentials
	hedge     hedger

	accepted       atomic.Bool // a request has succeeded
	retries, pages atomic.Int64
}

var _ objstore.Store = (*Store)(nil)

// Open returns the store at url: see [ParseURL]. It reads the configuration and
// makes no request, so that a missing bucket or credentials show with the first
// call.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	loc, err := ParseURL(url)
	if err != nil {
		return nil, err
	}
	opts.setDefaults()
	s := &Store{loc: loc, opts: opts, log: opts.Logger.With("store", loc.Name())}
	if s.client, s.transport, s.creds, err = newClient(ctx, loc, opts); err != nil {
		return nil, err
	}
	s.hedge.init(opts.HedgesMax)
	return s, nil
}

// Close gives up the connections that are not in use. It does not wait for calls
// under way, which the caller has ended before.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Location returns where the store is.
func (s *Store) Location() Location { return s.loc }

// Stats returns what was counted since Open.
func (s *Store) Stats() Stats {
	return Stats{Retries: s.retries.Load(), Hedges: s.hedge.begun.Load(), HedgesWon: s.hedge.won.Load(), Pages: s.pages.Load()}
}

// path returns the key in the bucket.
func (s *Store) path(key string) *string {
	if s.loc.Prefix != "" {
		key = s.loc.Prefix + "/" + key
	}
	return &key
}

// List asks for pages until it has max objects or there are no more. Objects
// under the store's prefix whose names are no keys are passed over.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if limit <= 0 {
		limit = objstore.ListMax
	}
	var infos []objstore.Info
	start := "" // the last key seen, as the bucket has it
	if after != "" {
		start = *s.path(after)
	}
	for {
		var more bool
		err := s.retry(ctx, call{verb: objstore.VerbList, key: prefix}, func(ctx context.Context) error {
			p, err := s.listOnce(ctx, prefix, start, limit-len(infos))
			if err == nil {
				infos, start, more = append(infos, p.infos...), p.last, p.more
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(infos) == limit || !more {
			return infos, nil
		}
		s.pages.Add(1)
	}
}

// page is one page of a listing.
type page struct {
	infos []objstore.Info
	last  string // the last key on it, as the bucket has it
	more  bool   // there are further pages
}

// listOnce asks for one page of what comes after start.
func (s *Store) listOnce(ctx context.Context, prefix, start string, limit int) (page, error) {
	in := &s3.ListObjectsV2Input{
		Bucket: &s.loc.Bucket, Prefix: s.path(prefix),
		MaxKeys: aws.Int32(int32(min(limit, objstore.ListMax))),
	}
	if start != "" {
		in.StartAfter = &start
	}
	ctx, l := s.limit(ctx, 0)
	defer l.end()
	out, err := s.client.ListObjectsV2(ctx, in)
	if err != nil {
		return page{}, l.cause(err)
	}
	if out.IsTruncated == nil {
		// Some bodies that broke off decode to a listing of nothing.
		return page{}, fmt.Errorf("%w: it listed objects without saying whether there were more", errServer)
	}
	base := len(*s.path(""))
	p := page{last: start, more: *out.IsTruncated}
	for _, o := range out.Contents {
		full := aws.ToString(o.Key)
		if !strings.HasPrefix(full, *in.Prefix) {
			return page{}, fmt.Errorf("%w: asked for %q, it listed %q", errServer, *in.Prefix, full)
		}
		if full <= p.last {
			return page{}, fmt.Errorf("%w: its listing is not sorted: %q came after %q", errServer, full, p.last)
		}
		p.last = full
		key, tag := full[base:], tagOf(o.ETag)
		if objstore.CheckKey(key) != nil {
			continue
		}
		if o.Size == nil || tag == "" {
			return page{}, fmt.Errorf("%w: it listed %q without size or ETag", errServer, full)
		}
		p.infos = append(p.infos, objstore.Info{Key: key, Size: *o.Size, Tag: tag})
	}
	if p.more && p.last == start {
		return page{}, fmt.Errorf("%w: it listed nothing and said that there was more", errServer)
	}
	return p, nil
}

// Delete removes the object. A request that may have been carried out is
// repeated: it can do no more than it did.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return s.retry(ctx, call{verb: objstore.VerbDelete, key: key}, func(ctx context.Context) error {
		ctx, l := s.limit(ctx, 0)
		defer l.end()
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.loc.Bucket, Key: s.path(key)})
		if codeOf(err) == codeNoSuchKey {
			return nil
		}
		return l.cause(err)
	})
}

// tagOf returns the tag for an ETag: the same without its quotes, which some
// servers leave out in some answers.
func tagOf(etag *string) string {
	s := aws.ToString(etag)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// etagOf is the opposite of tagOf, as a header has it.
func etagOf(tag string) *string {
	etag := `"` + tag + `"`
	return &etag
}
