package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/dayfly-run/dayfly/functions/sources"
	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
	"github.com/dayfly-run/dayfly/wire"
)

// engines are NATS and S3, of this process or outside.
type engines struct {
	conn  *bus.Conn
	store *blob.Store
	nats  *natsserver.Server // nil when outside
	s3    *s3server.Server   // nil when outside
	maker bucketMaker
}

// openEngines connects to NATS and S3, and starts those that no address was given
// for, with their data under dir. A role that keeps nothing in S3 has no store. On error
// nothing is left running.
func openEngines(ctx context.Context, cfg *config, name, dir string, log *slog.Logger) (_ *engines, err error) {
	e := &engines{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if err := e.openNATS(cfg, name, dir, log); err != nil {
		return nil, err
	}
	if !cfg.keepsObjects {
		return e, nil
	}
	return e, e.openS3(ctx, cfg, dir, log)
}

func (e *engines) openNATS(cfg *config, name, dir string, log *slog.Logger) (err error) {
	connect := bus.Config{URL: cfg.NATS, Credentials: cfg.NATSCredentials, Name: name, Replicas: cfg.Replicas}
	if cfg.NATS == "" {
		e.nats, err = natsserver.Start(natsserver.Config{Dir: filepath.Join(dir, "nats"), Listen: cfg.NATSListen}, log.With("engine", "nats"))
		if err != nil {
			return err
		}
		connect.InProcess = e.nats
	}
	if e.conn, err = bus.Connect(connect, log); err != nil {
		return fmt.Errorf("%w; check --nats", err)
	}
	return nil
}

func (e *engines) openS3(ctx context.Context, cfg *config, dir string, log *slog.Logger) (err error) {
	to := blob.Config{
		Endpoint: cfg.S3Endpoint, Bucket: cfg.S3Bucket, Region: cfg.S3Region,
		AccessKey: cfg.S3AccessKey, SecretKey: cfg.S3SecretKey,
	}
	if cfg.S3Endpoint == "" {
		e.s3, err = s3server.Start(ctx, s3server.Config{
			Dir: filepath.Join(dir, "s3"), Listen: cfg.S3Listen, Notify: sources.Watch(e.conn, cfg.S3Bucket),
		}, log.With("engine", "s3"))
		if err != nil {
			return err
		}
		to.Endpoint, to.Region, to.AccessKey, to.SecretKey, to.Dial =
			"http://embedded", s3server.Region, e.s3.AccessKey, e.s3.SecretKey, e.s3.Dial
	}
	if e.store, err = blob.New(to); err != nil {
		return wire.Errorf(wire.CodeInvalid, "%s; check --s3-endpoint and --s3-bucket", err)
	}
	e.maker = bucketMaker{ensure: e.store.EnsureBucket, final: blob.Refused, log: log}
	if e.s3 != nil {
		e.maker.final = func(error) bool { return true } // it is there, or something is wrong
	}
	if err := e.maker.start(ctx); err != nil {
		return fmt.Errorf("%w; check --s3-endpoint, --s3-bucket and the keys", err)
	}
	return nil
}

// failed says why an engine of this process will not get well by itself; nil while it may.
func (e *engines) failed() error {
	var errs []error
	if e.nats != nil {
		errs = append(errs, e.nats.Failed())
	}
	if e.s3 != nil {
		errs = append(errs, e.s3.Failed())
	}
	return errors.Join(errs...)
}

// close closes the connection, then the engines of this process.
func (e *engines) close() {
	e.maker.stop()
	if e.conn != nil {
		e.conn.Close()
	}
	if e.store != nil {
		e.store.Close()
	}
	if e.s3 != nil {
		e.s3.Stop()
	}
	if e.nats != nil {
		e.nats.Stop()
	}
}
