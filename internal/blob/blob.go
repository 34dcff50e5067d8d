// Package blob is the only door to S3: objects in one bucket, by wire's keys.
package blob

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

var (
	// ErrNotFound: no object has that key.
	ErrNotFound = errors.New("no such object")
	// ErrSource: what was to be stored could not be read, or ended too soon. S3 is
	// not to blame.
	ErrSource = errors.New("what is to be stored cannot be read")
)

// Config says how to reach S3.
type Config struct {
	// Endpoint is http://host:port or https://host, without a path.
	Endpoint  string
	Bucket    string
	Region    string
	AccessKey string
	SecretKey string
	// Dial replaces the way to the endpoint; nil for the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Store is one bucket. It is safe for concurrent use.
// Every method honours its context; minio-go retries what may be retried.
type Store struct {
	client    *minio.Client
	transport *http.Transport
	bucket    string
	region    string
}

// New makes a Store without asking the endpoint anything.
func New(cfg Config) (*Store, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || (u.Path != "" && u.Path != "/") {
		return nil, fmt.Errorf("S3 endpoint %q is not of the form http://host:port", cfg.Endpoint)
	}
	if err := s3utils.CheckValidBucketName(cfg.Bucket); err != nil {
		return nil, fmt.Errorf("S3 bucket %q: %w", cfg.Bucket, err)
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: 30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		DisableCompression:    true,
		DialContext:           cfg.Dial,
	}
	if cfg.Dial == nil {
		transport.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure:       u.Scheme == "https",
		Region:       cfg.Region,
		BucketLookup: minio.BucketLookupPath,
		Transport:    transport,
	})
	if err != nil {
		return nil, fmt.Errorf("S3 client for %s: %w", cfg.Endpoint, err)
	}
	return &Store{client: client, transport: transport, bucket: cfg.Bucket, region: cfg.Region}, nil
}

// Close closes the connections that nothing uses, also such as were opened and not used
// yet, for which a server that stops would wait. The Store can be used on.
func (s *Store) Close() { s.transport.CloseIdleConnections() }

// EnsureBucket creates the bucket when there is none.
func (s *Store) EnsureBucket(ctx context.Context) error { return s.EnsureOther(ctx, s.bucket) }

// EnsureOther creates another bucket on the same server when there is none.
func (s *Store) EnsureOther(ctx context.Context, bucket string) error {
	found, err := s.client.BucketExists(ctx, bucket)
	if err == nil && !found {
		err = s.client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: s.region})
		if code := minio.ToErrorResponse(err).Code; code == "BucketAlreadyOwnedByYou" || code == "BucketAlreadyExists" {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("S3 bucket %s: %w", bucket, hint(err))
	}
	return nil
}

// Refused says whether an error is an answer of S3's that stays the same until somebody
// changes keys, bucket or rights. Others may pass by themselves: S3 is not reached, or says
// that it cannot just now.
func Refused(err error) bool {
	answer, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && answer.StatusCode/100 == 4 && answer.StatusCode != http.StatusRequestTimeout && answer.StatusCode != http.StatusTooManyRequests
}

// Healthy returns nil when the bucket can be asked.
func (s *Store) Healthy(ctx context.Context) error {
	found, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return fmt.Errorf("S3 bucket %s: %w", s.bucket, hint(err))
	}
	if !found {
		return fmt.Errorf("S3 bucket %s is gone, or the keys may not see it; create it again", s.bucket)
	}
	return nil
}

// Put writes an object of size bytes, replacing one that is there. When r fails or
// has less, there is no object and the error wraps [ErrSource].
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64, contentType string) error {
	if _, again := r.(io.Seeker); !again {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		r = &source{r: r, left: size, fail: cancel}
	}
	_, err := s.client.PutObject(ctx, s.bucket, key, r, size, minio.PutObjectOptions{
		ContentType: contentType,
		// An empty body that is signed in chunks has a closing chunk, which VersityGW
		// leaves on the connection and takes for the next request.
		DisableContentSha256: size == 0,
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrSource) {
		err = cause
	}
	return wrap("put", key, err)
}

// PutStream writes an object of unknown size, in parts of [streamPart] that are held in
// memory one at a time. When r fails, there is no object and the error wraps
// [ErrSource].
func (s *Store) PutStream(ctx context.Context, key string, r io.Reader, contentType string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	from := bufio.NewReader(&source{r: r, fail: cancel})
	if _, err := from.Peek(1); errors.Is(err, io.EOF) {
		return s.Put(ctx, key, bytes.NewReader(nil), 0, contentType) // see there
	}
	_, err := s.client.PutObject(ctx, s.bucket, key, from, -1, minio.PutObjectOptions{
		ContentType: contentType, PartSize: streamPart, NumThreads: 1,
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrSource) {
		err = cause
	}
	return wrap("put", key, err)
}

// streamPart is the size of an object's parts when its own is not known, in bytes; S3
// takes none under 5 MiB.
const streamPart = 8 << 20

// source reads what can be read only once, and gives up the upload when it cannot,
// which minio-go would try again.
type source struct {
	r    io.Reader
	left int64
	fail context.CancelCauseFunc
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if errors.Is(err, io.EOF) && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.fail(fmt.Errorf("%w: %w", ErrSource, err))
	}
	return n, err
}

// PutBytes writes an object from memory.
func (s *Store) PutBytes(ctx context.Context, key string, data []byte, contentType string) error {
	return s.Put(ctx, key, bytes.NewReader(data), int64(len(data)), contentType)
}

// Object is an object being read; the caller closes it.
type Object struct {
	io.ReadCloser
	Size        int64
	ContentType string
}

// Get opens an object, or fails with [ErrNotFound].
func (s *Store) Get(ctx context.Context, key string) (*Object, error) {
	o, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, wrap("get", key, err)
	}
	info, err := o.Stat()
	if err != nil {
		_ = o.Close()
		return nil, wrap("get", key, err)
	}
	return &Object{ReadCloser: o, Size: info.Size, ContentType: info.ContentType}, nil
}

// GetBytes reads an object of at most limit bytes into memory.
func (s *Store) GetBytes(ctx context.Context, key string, limit int64) ([]byte, error) {
	o, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = o.Close() }()
	if o.Size > limit {
		return nil, fmt.Errorf("get %s: %d bytes, at most %d", key, o.Size, limit)
	}
	data := make([]byte, o.Size)
	if _, err := io.ReadFull(o, data); err != nil {
		return nil, wrap("get", key, err)
	}
	return data, nil
}

// Exists reports whether an object has that key.
func (s *Store) Exists(ctx context.Context, key string) (bool, error) {
	_, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	err = wrap("stat", key, err)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Delete removes an object; one that is not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	return wrap("delete", key, s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}))
}

// DeleteOlder removes the objects under a prefix that were last written before a moment,
// and returns how many. It goes on after one that cannot be removed, and returns the
// first such error.
func (s *Store) DeleteOlder(ctx context.Context, prefix string, before time.Time) (removed int, err error) {
	for object := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return removed, cmp.Or(err, wrap("list", prefix, object.Err))
		}
		if !object.LastModified.Before(before) {
			continue
		}
		if e := s.Delete(ctx, object.Key); e != nil {
			err = cmp.Or(err, e)
			continue
		}
		removed++
	}
	return removed, cmp.Or(err, listed(ctx, prefix))
}

// listed says whether a listing came to its end: one whose context ended stops silently.
func listed(ctx context.Context, prefix string) error {
	if ctx.Err() == nil {
		return nil
	}
	return wrap("list", prefix, context.Cause(ctx))
}

// Copy writes an object anew under another key, without its bytes coming here, or fails
// with [ErrNotFound]. The object may have up to 5 GiB.
func (s *Store) Copy(ctx context.Context, from, to string) error {
	_, err := s.client.CopyObject(ctx,
		minio.CopyDestOptions{Bucket: s.bucket, Object: to}, minio.CopySrcOptions{Bucket: s.bucket, Object: from})
	return wrap("copy", from, err)
}

// Info is what a listing says of an object.
type Info struct {
	Key string
	// Bytes is its size.
	Bytes int64
	// WrittenAt is when it was last written, by the clock of S3.
	WrittenAt time.Time
}

// List calls each for every object under a prefix, in the order of their keys. It ends
// with the first error, which may be each's own.
func (s *Store) List(ctx context.Context, prefix string, each func(Info) error) error {
	for object := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return wrap("list", prefix, object.Err)
		}
		if err := each(Info{Key: object.Key, Bytes: object.Size, WrittenAt: object.LastModified}); err != nil {
			return err
		}
	}
	return listed(ctx, prefix)
}

func wrap(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		err = ErrNotFound
	}
	return fmt.Errorf("S3 %s %s: %w", verb, key, hint(err))
}

// hint adds what to do to errors that an operator can mend.
func hint(err error) error {
	response := minio.ToErrorResponse(err)
	switch {
	case response.Code == "InvalidAccessKeyId", response.Code == "XAdminUserNotFound", response.Code == "SignatureDoesNotMatch", response.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w; check the S3 access key and secret key, and what they may do", err)
	case response.Code == "NoSuchBucket":
		return fmt.Errorf("%w; create the bucket, or name another", err)
	}
	return err
}
