package s3store

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/bough-db/bough/objstore"
)

// castagnoli is a constant table: it is never written to.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body is the body of a put. It hides the bytes.Reader's WriteTo: the SDK would
// hold its lock for as long as the whole body takes, and wait for that lock when a
// server answers early.
type body struct{ r *bytes.Reader }

// Read reads.
func (b body) Read(p []byte) (int, error) { return b.r.Read(p) }

// Seek seeks.
func (b body) Seek(offset int64, whence int) (int64, error) { return b.r.Seek(offset, whence) }

// errUnsent: a put broke off before all of it was sent.
var errUnsent = errors.New("put was not sent whole")

// Put makes one request, unless it is certain that it was not and will not be carried
// out: the server says that another put was under way (409), or it has not got the
// whole of the body. Any other failure may hide a put that was, or will be, carried
// out: it is the caller's to find out.
func (s *Store) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	if err := objstore.CheckKey(key); err != nil {
		return "", fmt.Errorf("put: %w", err)
	}
	if err := cond.Check(); err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	in := s.putInput(key, data, crc32.Checksum(data, castagnoli))
	if cond.IfAbsent {
		in.IfNoneMatch = aws.String("*")
	}
	if cond.IfMatch != "" {
		in.IfMatch = etagOf(cond.IfMatch)
	}
	var tag string
	err := s.retry(ctx, call{verb: objstore.VerbPut, key: key}, func(ctx context.Context) error {
		ctx, l := s.limit(ctx, int64(len(data)))
		defer l.end()
		// The SDK lets go of the body before it returns, even if the connection
		// has not.
		sent := body{bytes.NewReader(data)}
		in.Body = sent
		out, err := s.client.PutObject(ctx, in, signBody)
		if err = l.cause(err); brokenOff(err) && sent.r.Len() > 0 {
			return s.settle(ctx, key, cond, err)
		}
		if err != nil {
			return refused(err, cond)
		}
		if tag = tagOf(out.ETag); tag == "" {
			return fmt.Errorf("%w: a put got no ETag", errServer)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return tag, nil
}

// signBody puts the SHA-256 of a put's body under the signature over TLS, too, where
// the SDK leaves it out: servers that know no other checksum know this one.
func signBody(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		sum := new(v4.ComputePayloadSHA256)
		_, err := stack.Finalize.Swap(sum.ID(), sum)
		return err
	})
}

// putInput returns the request for a put, but for its body.
func (s *Store) putInput(key string, data []byte, crc32c uint32) *s3.PutObjectInput {
	sum := binary.BigEndian.AppendUint32(nil, crc32c)
	return &s3.PutObjectInput{
		Bucket: &s.loc.Bucket, Key: s.path(key),
		ContentLength:  aws.Int64(int64(len(data))),
		ChecksumCRC32C: aws.String(base64.StdEncoding.EncodeToString(sum)),
	}
}

// TakesDamaged tries whether the server takes a body that does not match the checksum
// sent with it. The key must be the caller's own; it is deleted again.
func (s *Store) TakesDamaged(ctx context.Context, key string) (bool, error) {
	if err := objstore.CheckKey(key); err != nil {
		return false, fmt.Errorf("put: %w", err)
	}
	data := []byte("not what the checksum is of")
	c := call{verb: objstore.VerbPut, key: key}
	in := s.putInput(key, data, crc32.Checksum(data, castagnoli)+1)
	err := s.retry(ctx, c, func(ctx context.Context) error {
		ctx, l := s.limit(ctx, int64(len(data)))
		defer l.end()
		in.Body = body{bytes.NewReader(data)}
		_, err := s.client.PutObject(ctx, in, signBody)
		if statusOf(err) == http.StatusBadRequest {
			return errDamage
		}
		return l.cause(err)
	})
	if errors.Is(err, errDamage) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.Delete(ctx, key)
}

// errDamage: the server has noticed that a body is not what its checksum is of.
var errDamage = errors.New("body does not match its checksum")

// brokenOff tells whether err is that of a request which had begun, and got no answer.
func brokenOff(err error) bool {
	var send *smithyhttp.RequestSendError
	return errors.Is(err, errSlow) || errors.As(err, &send) && !neverSent(err) && !forGood(err)
}

// settle finds out why a put broke off that was not sent whole, and so was not carried
// out: a server that refuses a large one often closes the connection under the body,
// and its answer is lost. It returns the sentinel if the condition does not hold.
func (s *Store) settle(ctx context.Context, key string, cond objstore.Condition, why error) error {
	if cond != (objstore.Condition{}) {
		out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.loc.Bucket, Key: s.path(key)})
		switch {
		case err == nil && cond.IfAbsent:
			return objstore.ErrExists
		case err == nil && tagOf(out.ETag) != cond.IfMatch:
			return objstore.ErrMismatch
		}
	}
	return fmt.Errorf("%w: %w", errUnsent, why)
}

// refused returns the sentinel for the error of a put whose condition did not
// hold, and err otherwise.
func refused(err error, cond objstore.Condition) error {
	failed := statusOf(err) == http.StatusPreconditionFailed
	switch {
	case failed && cond.IfAbsent:
		return objstore.ErrExists
	case cond.IfMatch != "" && (failed || statusOf(err) == http.StatusNotFound && codeOf(err) == codeNoSuchKey):
		return objstore.ErrMismatch
	}
	return err
}
