// Package bus is the only door to NATS: request and reply, publish and
// subscribe, key-value buckets and bounded streams. The rest of Dayfly sees
// plain bytes, wire's names and the errors below.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoResponders: nobody listens on the subject. Nothing ran.
	ErrNoResponders = errors.New("nobody answers on this subject")
	// ErrNotFound: no such key or message.
	ErrNotFound = errors.New("not found")
	// ErrExists: the key to create is there already.
	ErrExists = errors.New("exists already")
	// ErrConflict: the key changed since the revision that was named.
	ErrConflict = errors.New("changed meanwhile")
	// ErrFull: the stream takes no more until something is taken off it.
	ErrFull = errors.New("the stream is full")
	// ErrBusy: too much waits to be stored already. Nothing was stored.
	ErrBusy = errors.New("too many messages wait to be stored")
	// ErrSilent: who answers has said nothing for too long.
	ErrSilent = errors.New("nothing was heard for too long")
	// ErrMissed: more came than could wait to be read.
	ErrMissed = errors.New("pieces of an answer were lost")
)

// Config says how to reach NATS.
type Config struct {
	// URL lists the servers, separated by commas: nats://host:4222.
	URL string
	// Credentials is the path of a NATS credentials file; empty for none.
	Credentials string
	// Name shows in the server's connection list.
	Name string
	// InProcess connects to a server in this process instead of URL.
	InProcess nats.InProcessConnProvider
	// Replicas is how many servers keep each bucket and stream that is made over this
	// connection and names no number itself; 0 for one.
	Replicas int
}

// Conn is a connection to NATS that reconnects for ever. It is safe for
// concurrent use; Close ends it.
type Conn struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	log *slog.Logger
	// replicas is [Config].Replicas, at least 1.
	replicas int
	session  session
	back     callbacks
}

// errLost is the cause of a wait that ended because the server cannot answer any more.
var errLost = errors.New("the connection to NATS was lost")

// session is the time from one loss of the connection to the next. An answer does not
// come in another session than its question was sent in.
type session struct {
	mu  sync.Mutex      // guards what follows
	ctx context.Context //nolint:containedctx // it is the connection's life, not a call's
	end context.CancelCauseFunc
}

func (s *session) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		s.end(errLost)
	}
	s.ctx, s.end = context.WithCancelCause(context.Background())
}

func (s *session) current() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

// untilLost is ctx up to the next loss of the connection.
func (c *Conn) untilLost(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	//nolint:contextcheck // the connection's life ends the wait as well
	stop := context.AfterFunc(c.session.current(), func() { cancel(errLost) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

const (
	// askBound limits a question to JetStream. Its answer may be lost although the
	// connection stands: with the server that was to give it.
	askBound = 5 * time.Second
	// listBound limits a question whose answer comes in pages.
	listBound = 30 * time.Second
)

var errUnanswered = errors.New("JetStream did not answer in time")

// ask puts a question to JetStream, and waits neither for longer than its bound nor
// beyond the loss of the connection, however long ctx lasts. A process that was paused may
// run before its timers do; so the clock is looked at: who holds a lease until ctx ends
// writes nothing after that.
func (c *Conn) ask(ctx context.Context, bound time.Duration, question func(context.Context) error) error {
	if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
		return context.DeadlineExceeded
	}
	ctx, cancel := c.untilLost(ctx)
	defer cancel()
	ctx, expire := context.WithTimeoutCause(ctx, bound, errUnanswered)
	defer expire()
	err := question(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// request is [Conn.ask] for one message.
func (c *Conn) request(ctx context.Context, m *nats.Msg) (answer *nats.Msg, err error) {
	err = c.ask(ctx, askBound, func(ctx context.Context) error {
		answer, err = c.nc.RequestMsgWithContext(ctx, m)
		return err
	})
	return answer, err
}

// query is [Conn.again] for one message.
func (c *Conn) query(ctx context.Context, m *nats.Msg) (answer *nats.Msg, err error) {
	err = c.again(ctx, func(ctx context.Context) error {
		answer, err = c.nc.RequestMsgWithContext(ctx, m)
		return err
	})
	return answer, err
}

// stream looks a stream up.
func (c *Conn) stream(ctx context.Context, name string) (s jetstream.Stream, err error) {
	err = c.again(ctx, func(ctx context.Context) error {
		s, err = c.js.Stream(ctx, name)
		return err
	})
	return s, err
}

// OnLost calls f once, in a goroutine of its own, when the connection is lost for the next
// time, unless stop was called before.
func (c *Conn) OnLost(f func()) (stop func()) {
	end := context.AfterFunc(c.session.current(), f)
	return func() { end() }
}

const (
	// pingEvery and maxPings are how a server is found out that neither answers nor closes
	// the connection: one that is cut off, or paused. It takes noticedWithin at most, after
	// which a node has the time to be heard over another one before it is given up.
	pingEvery, maxPings = 400 * time.Millisecond, 2
	noticedWithin       = (maxPings + 1) * pingEvery
	// pingInProcess is the interval where client and server stop and go on together.
	pingInProcess = 2 * time.Minute
	// writeBound limits one write. Who publishes waits for it, and so do the pings.
	writeBound = 2 * time.Second
	// dialBound limits one attempt to connect to one server.
	dialBound = 2 * time.Second
	// Between two rounds over all servers there is a pause; its random part keeps the
	// clients of a lost server from coming back all at once.
	reconnectPause, reconnectJitter = 100 * time.Millisecond, 200 * time.Millisecond
)

// Connect opens a connection. It fails at once when no server answers, so that
// a wrong address stops the start; later losses are mended in the background.
func Connect(cfg Config, log *slog.Logger) (*Conn, error) {
	c := &Conn{log: log, replicas: max(cfg.Replicas, 1)}
	c.session.renew()
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.Timeout(dialBound),
		nats.ReconnectWait(reconnectPause),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(maxPings),
		nats.FlusherTimeout(writeBound),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.session.renew()
			if err != nil {
				log.Warn("lost NATS; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("back on NATS", "server", nc.ConnectedUrlRedacted())
			c.back.call()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("NATS", "error", err, "subject", subject)
		}),
	}
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	if cfg.InProcess != nil {
		opts = append(opts, nats.InProcessServer(cfg.InProcess), nats.PingInterval(pingInProcess))
	}
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %q: %w", cfg.URL, err)
	}
	if c.js, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	c.nc = nc
	return c, nil
}

// Close sends what is buffered and closes the connection.
func (c *Conn) Close() {
	_ = c.nc.FlushTimeout(time.Second)
	c.nc.Close()
}

// Healthy returns nil while the connection stands.
func (c *Conn) Healthy() error {
	if !c.nc.IsConnected() {
		return fmt.Errorf("NATS is %s", c.nc.Status())
	}
	return nil
}

// MaxPayload is the largest message that the server takes, in bytes.
func (c *Conn) MaxPayload() int { return int(c.nc.MaxPayload()) }

// Publish sends a message to whoever listens now. It does not wait.
func (c *Conn) Publish(subject string, data []byte) error {
	return c.nc.Publish(subject, data)
}

// Request sends a message and waits for one answer, until ctx is done.
// [ErrNoResponders] says that nobody got it.
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	msg, err := c.nc.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoResponders
	case err != nil:
		return nil, fmt.Errorf("request on %s: %w", subject, err)
	}
	return msg.Data, nil
}

// Msg is a message that was received.
type Msg struct {
	Subject string
	Data    []byte
	msg     *nats.Msg
}

// Respond answers a request. On a message that is none it does nothing.
func (m Msg) Respond(data []byte) error {
	if m.msg.Reply == "" {
		return nil
	}
	return m.msg.Respond(data)
}

// Reply is the subject that answers go to; empty for a message that is no request.
func (m Msg) Reply() string { return m.msg.Reply }

// Subscription is a standing interest in a subject.
type Subscription struct{ sub *nats.Subscription }

// Subscribe calls handle for every message on subject, one at a time and in
// order; a handler with real work hands it to a goroutine. When it returns, the
// server knows of the subscription. Members of the same non-empty group share
// the messages.
func (c *Conn) Subscribe(subject, group string, handle func(Msg)) (*Subscription, error) {
	cb := func(m *nats.Msg) { handle(Msg{Subject: m.Subject, Data: m.Data, msg: m}) }
	var sub *nats.Subscription
	var err error
	if group == "" {
		sub, err = c.nc.Subscribe(subject, cb)
	} else {
		sub, err = c.nc.QueueSubscribe(subject, group, cb)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := c.nc.FlushTimeout(5 * time.Second); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return &Subscription{sub: sub}, nil
}

// Backlog is how many messages came and are not handled yet, the one in the handler
// included, and how many were dropped since the start because too many waited. It fails
// once the subscription has ended.
func (s *Subscription) Backlog() (waiting, dropped int, err error) {
	if waiting, _, err = s.sub.Pending(); err != nil {
		return 0, 0, err
	}
	dropped, err = s.sub.Dropped()
	return waiting, dropped, err
}

// Stop ends the subscription: once it returns, the server sends no new message.
// Messages that are here already are still handled, for up to five seconds. It may
// be called again.
func (s *Subscription) Stop(c *Conn) {
	if !s.sub.IsValid() {
		return // stopped already, or the connection is closed
	}
	closed := make(chan struct{})
	s.sub.SetClosedHandler(func(string) { close(closed) })
	if err := s.sub.Drain(); err != nil {
		return
	}
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		c.log.Warn("subscription did not drain", "subject", s.sub.Subject)
	}
}
