package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// OpsHandler serves /healthz, /readyz and /metrics. ready returns nil when the
// role can do its work.
func OpsHandler(ready func(context.Context) error, metrics *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			WriteProblem(w, wire.Errorf(wire.CodeUnavailable, "not ready: %s", err), "")
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// Server is an HTTP listener with a lifecycle. Both hooks must be set before Start,
// and may be called again by a second stop.
type Server struct {
	// OnDrain is called when a stop begins: end what would stay open for ever.
	OnDrain func()
	// OnCut is called when the patience of a stop is over: answer what is left.
	OnCut func()

	addr   string
	server *http.Server
	log    *slog.Logger

	listener net.Listener
	done     chan struct{}
	leaving  atomic.Bool
}

// NewServer makes a server for addr (host:port; port 0 for any).
func NewServer(addr string, h http.Handler, log *slog.Logger) *Server {
	s := &Server{addr: addr, log: log}
	s.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.leaving.Load() {
				w.Header().Set("Connection", "close")
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Start listens.
func (s *Server) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; name another address with --listen, or end the program that uses it", s.addr, err)
	}
	s.listener = l
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP server ended", "error", err)
		}
	}()
	return nil
}

// Addr is the address that is listened on, once started.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Leave goes on serving for a while, and has clients go elsewhere: each answer ends its
// connection, and [Server.Leaving] is true. A stop comes next.
func (s *Server) Leave(d time.Duration) {
	s.leaving.Store(true)
	<-time.After(d)
}

// Leaving reports whether the server is about to stop: it is not ready any more.
func (s *Server) Leaving() bool { return s.leaving.Load() }

// cutGrace is how long handlers have to answer after OnCut.
const cutGrace = 2 * time.Second

// Stop closes the listener, lets requests end until ctx is done, and then has the
// rest answered and cut off.
func (s *Server) Stop(ctx context.Context) error {
	if s.listener == nil {
		return nil
	}
	if s.OnDrain != nil {
		s.OnDrain()
	}
	err := s.server.Shutdown(ctx)
	if err != nil {
		if s.OnCut != nil {
			s.OnCut()
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutGrace)
		defer cancel()
		if err = s.server.Shutdown(last); err != nil {
			err = errors.Join(fmt.Errorf("requests were cut off: %w", err), s.server.Close())
		}
	}
	<-s.done
	return err
}
