package s3server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"github.com/dayfly-run/dayfly/internal/s3event"
)

// watched tells of every object that appears or goes before its client has an answer:
// what a client was told is done has been told of. VersityGW's own notifications are sent
// in the background, and are lost with the process.
type watched struct {
	backend.Backend
	notify func(context.Context, s3event.Change) error
	log    *slog.Logger
}

// PutObject implements [backend.Backend].
func (w watched) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	out, err := w.Backend.PutObject(ctx, in)
	if err == nil {
		size := in.ContentLength
		if out.Size != nil {
			size = out.Size
		}
		err = w.tell(ctx, s3event.Change{
			Event: "ObjectCreated:Put", Bucket: value(in.Bucket), Key: value(in.Key), Size: value(size), ETag: out.ETag, VersionID: out.VersionID,
		})
	}
	return out, err
}

// CopyObject implements [backend.Backend].
func (w watched) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	out, err := w.Backend.CopyObject(ctx, in)
	if err == nil {
		c := s3event.Change{Event: "ObjectCreated:Copy", Bucket: value(in.Bucket), Key: value(in.Key), VersionID: value(out.VersionId)}
		w.describe(ctx, &c)
		err = w.tell(ctx, c)
	}
	return out, err
}

// CompleteMultipartUpload implements [backend.Backend].
func (w watched) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	out, version, err := w.Backend.CompleteMultipartUpload(ctx, in)
	if err == nil {
		c := s3event.Change{Event: "ObjectCreated:CompleteMultipartUpload", Bucket: value(in.Bucket), Key: value(in.Key), VersionID: version}
		w.describe(ctx, &c)
		err = w.tell(ctx, c)
	}
	return out, version, err
}

// DeleteObject implements [backend.Backend].
func (w watched) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	out, err := w.Backend.DeleteObject(ctx, in)
	if err == nil {
		err = w.tell(ctx, removed(in.Bucket, in.Key, in.VersionId))
	}
	return out, err
}

// DeleteObjects implements [backend.Backend].
func (w watched) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	out, err := w.Backend.DeleteObjects(ctx, in)
	for i := 0; err == nil && i < len(out.Deleted); i++ {
		err = w.tell(ctx, removed(in.Bucket, out.Deleted[i].Key, out.Deleted[i].VersionId))
	}
	return out, err
}

func removed(bucket, key, version *string) s3event.Change {
	return s3event.Change{Event: "ObjectRemoved:Delete", Bucket: value(bucket), Key: value(key), VersionID: value(version)}
}

// describe fills in what the answer to a copy or upload does not say.
func (w watched) describe(ctx context.Context, c *s3event.Change) {
	head, err := w.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &c.Bucket, Key: &c.Key})
	if err != nil { // it was replaced or removed just now, which is told of by itself
		w.log.Debug("object not described", "bucket", c.Bucket, "key", c.Key, "error", err)
		return
	}
	c.Size, c.ETag = value(head.ContentLength), value(head.ETag)
}

// tell tells of a change. When it cannot, the client has to ask again.
func (w watched) tell(ctx context.Context, c s3event.Change) error {
	c.Region, c.At = Region, time.Now()
	err := w.notify(ctx, c)
	if err == nil {
		return nil
	}
	w.log.Warn("object changed, but nobody could be told", "bucket", c.Bucket, "key", c.Key, "error", err)
	return s3err.APIError{
		Code: "ServiceUnavailable", HTTPStatusCode: http.StatusServiceUnavailable,
		Description: "The object is changed, but its trigger could not be told. Please try again.",
	}
}

// value is what a pointer points to, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
