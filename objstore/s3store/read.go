package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/bough-db/bough/objstore"
)

const (
	// getBytesMax bounds what Get takes into memory, whatever a server announces.
	getBytesMax = 1 << 30
	// offsetMax is beyond the end of every object (the largest have 5 TiB), and
	// far from where adding a length overflows.
	offsetMax = 1 << 50
	// slackBytes is how much more than what was asked for a read from the end of
	// an object fetches rather than make a second request.
	slackBytes = 64 << 10
)

var (
	// errBody: a body broke off, or is not what its checksum says.
	errBody = errors.New("body was not received whole")
	// errTooLarge: an object does not fit into memory.
	errTooLarge = errors.New("object is too large to be read as a whole")
)

// Get returns the whole object. The SDK compares it with the checksum that the
// server sends along, if it does.
func (s *Store) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return nil, objstore.Info{}, fmt.Errorf("get: %w", err)
	}
	var data []byte
	var info objstore.Info
	err := s.retry(ctx, call{verb: objstore.VerbGet, key: key}, func(ctx context.Context) (err error) {
		data, info, err = s.getOnce(ctx, key)
		return err
	})
	if err != nil {
		return nil, objstore.Info{}, err
	}
	return data, info, nil
}

func (s *Store) getOnce(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	ctx, l := s.limit(ctx, 0)
	defer l.end()
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.loc.Bucket, Key: s.path(key)})
	if err != nil {
		return nil, objstore.Info{}, l.cause(err)
	}
	defer out.Body.Close()
	size, err := announced(out)
	if err != nil {
		return nil, objstore.Info{}, err
	}
	if size > getBytesMax {
		return nil, objstore.Info{}, fmt.Errorf("%w: %d bytes are more than %d", errTooLarge, size, int64(getBytesMax))
	}
	l.extend(size)
	data := make([]byte, size)
	if err := fill(out.Body, data, 0); err != nil {
		return nil, objstore.Info{}, l.cause(err)
	}
	return data, objstore.Info{Key: key, Size: size, Tag: tagOf(out.ETag)}, nil
}

// announced returns the length of the body that a GET announces.
func announced(out *s3.GetObjectOutput) (int64, error) {
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return 0, fmt.Errorf("%w: it sends an object without saying how long it is", errServer)
	}
	if tagOf(out.ETag) == "" {
		return 0, fmt.Errorf("%w: it sends an object without ETag", errServer)
	}
	return *out.ContentLength, nil
}

// fill reads a body that has to hold len(p) bytes and rest more, of which p is to
// have the first. The end of the body is always reached: that is where checksums are
// compared, and a connection is used again only from there.
func fill(body io.Reader, p []byte, rest int64) error {
	n, err := io.ReadFull(body, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: %d bytes of %d", errShort, n, len(p))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	// One byte more than there may be shows a body that goes on.
	more, err := io.CopyN(io.Discard, body, rest+1)
	switch {
	case err == io.EOF && more == rest:
		return nil
	case err == nil, err == io.EOF:
		return fmt.Errorf("%w: %d bytes where there should be %d", errShort, int64(n)+more, int64(n)+rest)
	default:
		return fmt.Errorf("%w: %w", errBody, err)
	}
}

// ReadAt makes one ranged request, a second one at the same time if the first is
// slow, and one more beforehand for a read that lies far from the end but is
// counted from there. No checksum of the store covers a part of an object: what the
// bytes are worth is for the caller to check.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return 0, objstore.Info{}, fmt.Errorf("read: %w", err)
	}
	var n int
	var info objstore.Info
	err := s.retry(ctx, call{verb: objstore.VerbReadAt, key: key}, func(ctx context.Context) (err error) {
		n, info, err = s.hedge.read(ctx, p, func(ctx context.Context, p []byte) (int, objstore.Info, error) {
			return s.readOnce(ctx, key, p, off)
		})
		return err
	})
	if err != nil {
		return 0, objstore.Info{}, err
	}
	return n, info, nil
}

// readOnce chooses how to ask for a range.
func (s *Store) readOnce(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	length := int64(len(p))
	switch {
	case off >= offsetMax, length == 0:
		// There is nothing to read, but the size and the tag are asked for.
		_, info, err := s.readRange(ctx, key, nil, 0, "")
		return 0, info, err
	case off >= 0:
		return s.readRange(ctx, key, p, off, "")
	case off <= -offsetMax:
		return s.readRange(ctx, key, p, 0, "")
	case -off-length <= slackBytes:
		return s.readRange(ctx, key, p, off, "")
	}
	_, info, err := s.readRange(ctx, key, nil, 0, "")
	if err != nil {
		return 0, info, err
	}
	start, n := objstore.Window(info.Size, len(p), off)
	if n == 0 {
		return 0, info, nil
	}
	return s.readRange(ctx, key, p, start, info.Tag)
}

// readRange asks for len(p) bytes at off, of the version tag if that is not empty.
// With an empty p it asks for one byte, and returns none.
func (s *Store) readRange(ctx context.Context, key string, p []byte, off int64, tag string) (int, objstore.Info, error) {
	fail := func(err error) (int, objstore.Info, error) { return 0, objstore.Info{}, err }
	length := max(int64(len(p)), 1)
	in := &s3.GetObjectInput{Bucket: &s.loc.Bucket, Key: s.path(key)}
	if off < 0 {
		in.Range = aws.String("bytes=" + strconv.FormatInt(off, 10))
	} else {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+length-1))
	}
	if tag != "" {
		in.IfMatch = etagOf(tag)
	}
	ctx, l := s.limit(ctx, max(length, -off))
	defer l.end()
	// The checksum of an object says nothing about a part of it, and some servers
	// send it along all the same.
	out, err := s.client.GetObject(ctx, in, func(o *s3.Options) {
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if err != nil {
		err = l.cause(err)
		switch statusOf(err) {
		case http.StatusRequestedRangeNotSatisfiable:
			return s.beyondEnd(ctx, l, key, p, off)
		case http.StatusPreconditionFailed:
			err = errMoved
		}
		return fail(err)
	}
	defer out.Body.Close()
	size, err := announced(out)
	if err != nil {
		return fail(err)
	}
	got := span{0, size - 1, size} // a whole object, if nothing else is announced
	if header := aws.ToString(out.ContentRange); header != "" {
		if got, err = parseContentRange(header); err != nil {
			return fail(err)
		}
	}
	// A server that does not know ranges sends whole objects: that is noticed
	// here, and right only where the whole was asked for.
	want := wanted(off, length, got.size)
	if got != want || size != got.length() {
		return fail(fmt.Errorf("%w: asked for %s of %d bytes, announced bytes %d-%d and %d of them", errRange, *in.Range, got.size, got.first, got.last, size))
	}
	n := min(int64(len(p)), size)
	if err := fill(out.Body, p[:n], size-n); err != nil {
		return fail(l.cause(err))
	}
	return int(n), objstore.Info{Key: key, Size: got.size, Tag: tagOf(out.ETag)}, nil
}

// wanted returns the span that a request for length bytes at off has to be answered
// with, if the object has size bytes. A request from the end is for all of the end.
func wanted(off, length, size int64) span {
	if off < 0 {
		return span{max(off+size, 0), size - 1, size}
	}
	return span{off, min(off+length, size) - 1, size}
}

// beyondEnd answers a read of which a server said that it lies outside of the
// object, which it does not describe then.
func (s *Store) beyondEnd(ctx context.Context, l *limit, key string, p []byte, off int64) (int, objstore.Info, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.loc.Bucket, Key: s.path(key)})
	if statusOf(err) == http.StatusNotFound {
		err = errMoved // or the bucket went: the answer to a HEAD does not say
	}
	if err != nil {
		return 0, objstore.Info{}, l.cause(err)
	}
	info := objstore.Info{Key: key, Size: aws.ToInt64(out.ContentLength), Tag: tagOf(out.ETag)}
	if info.Tag == "" || out.ContentLength == nil || info.Size < 0 {
		return 0, objstore.Info{}, fmt.Errorf("%w: it describes an object without size or ETag", errServer)
	}
	start, n := objstore.Window(info.Size, max(len(p), 1), off)
	switch {
	case n == 0:
		return 0, info, nil
	case off < 0:
		// Some servers refuse to send the last 10 bytes of 5.
		return s.readRange(ctx, key, p, start, info.Tag)
	}
	return 0, objstore.Info{}, errMoved
}
