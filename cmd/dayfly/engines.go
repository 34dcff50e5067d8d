package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// engines are NATS and S3, of this process or outside.
type engines struct {
	conn  *bus.Conn
	store *blob.Store
	nats  *natsserver.Server // nil when outside
	s3    *s3server.Server   // nil when outside
}

// openEngines connects to NATS and S3, and starts those that no address was given
// for, with their data under dir. On error nothing is left running.
func openEngines(ctx context.Context, cfg *config, name, dir string, log *slog.Logger) (_ *engines, err error) {
	e := &engines{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	connect := bus.Config{URL: cfg.NATS, Credentials: cfg.NATSCredentials, Name: name, Replicas: cfg.Replicas}
	if cfg.NATS == "" {
		e.nats, err = natsserver.Start(natsserver.Config{Dir: filepath.Join(dir, "nats"), Listen: cfg.NATSListen}, log.With("engine", "nats"))
		if err != nil {
			return nil, err
		}
		connect.InProcess = e.nats
	}
	if e.conn, err = bus.Connect(connect, log); err != nil {
		return nil, fmt.Errorf("%w; check --nats", err)
	}
	to := blob.Config{
		Endpoint: cfg.S3Endpoint, Bucket: cfg.S3Bucket, Region: cfg.S3Region,
		AccessKey: cfg.S3AccessKey, SecretKey: cfg.S3SecretKey,
	}
	if cfg.S3Endpoint == "" {
		e.s3, err = s3server.Start(ctx, s3server.Config{
			Dir: filepath.Join(dir, "s3"), Listen: cfg.S3Listen, Notify: sources.Watch(e.conn, cfg.S3Bucket),
		}, log.With("engine", "s3"))
		if err != nil {
			return nil, err
		}
		to.Endpoint, to.Region, to.AccessKey, to.SecretKey, to.Dial =
			"http://embedded", s3server.Region, e.s3.AccessKey, e.s3.SecretKey, e.s3.Dial
	}
	if e.store, err = blob.New(to); err != nil {
		return nil, err
	}
	if err := e.store.EnsureBucket(ctx); err != nil {
		return nil, fmt.Errorf("%w; check --s3-endpoint, --s3-bucket and the keys", err)
	}
	return e, nil
}

// close closes the connection, then the engines of this process.
func (e *engines) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.s3 != nil {
		e.s3.Stop()
	}
	if e.nats != nil {
		e.nats.Stop()
	}
}

// newNodeID makes a node name after the machine's.
func newNodeID() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", errors.Join(err, errors.New("name this node with --node"))
	}
	host = strings.Trim(notInNode.ReplaceAllString(strings.ToLower(host), "-"), "-")
	return strings.Trim(host[:min(len(host), 40)]+"-"+strings.ToLower(rand.Text()[:6]), "-"), nil
}
