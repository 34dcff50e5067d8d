package s3server_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/internal/s3event"
)

// watcher keeps what it is told.
type watcher struct {
	mu      sync.Mutex // guards what follows
	changes []s3event.Change
	fails   error
}

func (w *watcher) notify(_ context.Context, c s3event.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails == nil {
		w.changes = append(w.changes, c)
	}
	return w.fails
}

// take returns what was told since the last time.
func (w *watcher) take() []s3event.Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := w.changes
	w.changes = nil
	return changes
}

// amazon is Amazon's own client.
func amazon(t *testing.T, s *s3server.Server) *s3.Client {
	t.Helper()
	transport := &http.Transport{DialContext: s.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://embedded"), Region: s3server.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		HTTPClient:  &http.Client{Transport: transport}, RetryMaxAttempts: 1,
	})
}

// TestEveryChangeIsTold: when the client has its answer, its change was told of.
func TestEveryChangeIsTold(t *testing.T) {
	w := &watcher{}
	s := start(t, s3server.Config{Dir: t.TempDir(), Notify: w.notify})
	client, bucket := amazon(t, s), aws.String("uploads")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(changes ...s3event.Change) {
		t.Helper()
		for i := range changes {
			changes[i].Bucket, changes[i].Region = "uploads", s3server.Region
		}
		got := w.take()
		if diff := cmp.Diff(changes, got, cmpopts.IgnoreFields(s3event.Change{}, "At")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, c := range got {
			if age := time.Since(c.At); age < 0 || age > time.Minute {
				t.Errorf("at %s", c.At)
			}
		}
	}
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: bucket})
	must(err)
	put, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: aws.String("in/a b+ü"), Body: strings.NewReader("four")})
	must(err)
	want(s3event.Change{Event: "ObjectCreated:Put", Key: "in/a b+ü", Size: 4, ETag: *put.ETag})
	_, err = client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: bucket, Key: aws.String("copy"), CopySource: aws.String("uploads/in/a%20b%2B%C3%BC")})
	must(err)
	want(s3event.Change{Event: "ObjectCreated:Copy", Key: "copy", Size: 4, ETag: *put.ETag})
	upload, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: aws.String("large")})
	must(err)
	part, err := client.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: bucket, Key: aws.String("large"), UploadId: upload.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader(make([]byte, 100_000)),
	})
	must(err)
	want()
	whole, err := client.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: aws.String("large"), UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: aws.Int32(1)}}},
	})
	must(err)
	want(s3event.Change{Event: "ObjectCreated:CompleteMultipartUpload", Key: "large", Size: 100_000, ETag: *whole.ETag})
	_, err = client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: aws.String("large")})
	must(err)
	want(s3event.Change{Event: "ObjectRemoved:Delete", Key: "large"})
	_, err = client.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{
		Objects: []types.ObjectIdentifier{{Key: aws.String("copy")}, {Key: aws.String("in/a b+ü")}},
	}})
	must(err)
	want(s3event.Change{Event: "ObjectRemoved:Delete", Key: "copy"}, s3event.Change{Event: "ObjectRemoved:Delete", Key: "in/a b+ü"})
	_, err = client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("missing"), Key: aws.String("a"), Body: strings.NewReader("x")})
	if err == nil {
		t.Error("a bucket that is none takes objects")
	}
	want()
}

// TestAChangeThatCannotBeToldIsNotDone: the client hears that it must ask again.
func TestAChangeThatCannotBeToldIsNotDone(t *testing.T) {
	w := &watcher{}
	s := start(t, s3server.Config{Dir: t.TempDir(), Notify: w.notify})
	client, bucket := amazon(t, s), aws.String("uploads")
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: bucket}); err != nil {
		t.Fatal(err)
	}
	put := func() error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: aws.String("a"), Body: strings.NewReader("x")})
		return err
	}
	w.fails = errors.New("no NATS")
	if err := put(); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "its trigger could not be told") {
		t.Errorf("%v", err)
	}
	w.fails = nil
	if err := put(); err != nil {
		t.Error(err)
	}
	if got := w.take(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}
