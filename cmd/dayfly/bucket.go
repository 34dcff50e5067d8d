package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/telemetry"
)

const (
	// bucketBound limits one try at making the bucket, and with it how long a start is
	// held up by an S3 server that is away.
	bucketBound = 3 * time.Second
	// bucketAgain is the pause before another one.
	bucketAgain = 2 * time.Second
)

// bucketMaker makes the roles' bucket in S3. Where S3 cannot be reached it goes on in the
// background: warm calls and placement need no S3, also after a restart.
type bucketMaker struct {
	ensure func(context.Context) error
	// final says whether an error is one that does not pass by itself.
	final func(error) bool
	log   *slog.Logger

	cancel context.CancelFunc // nil when nothing goes on
	trying sync.WaitGroup
}

// start tries once, and returns only an error that is final.
func (m *bucketMaker) start(ctx context.Context) error {
	err := m.try(ctx)
	if err == nil || m.final(err) || ctx.Err() != nil {
		return err
	}
	m.log.Warn("S3 cannot be reached: warm calls go on without it, deploys and first calls do not; trying again", telemetry.KeyError, err)
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.trying.Go(func() { m.again(ctx) })
	return nil
}

// stop ends what goes on.
func (m *bucketMaker) stop() {
	if m.cancel != nil {
		m.cancel()
	}
	m.trying.Wait()
}

// again tries until it works.
func (m *bucketMaker) again(ctx context.Context) {
	pause := time.NewTicker(bucketAgain)
	defer pause.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		err := m.try(ctx)
		switch {
		case err == nil:
			m.log.Info("S3 is there")
			return
		case m.final(err) && !said && ctx.Err() == nil:
			said = true
			m.log.Error("S3 refuses; check --s3-bucket and the keys", telemetry.KeyError, err)
		}
	}
}

func (m *bucketMaker) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bucketBound)
	defer cancel()
	return m.ensure(ctx)
}
