// Package baseline runs what Dayfly is measured against: a plain HTTP server, a
// reverse proxy in front of it, and `docker run`. The servers are processes of
// their own, made by starting this program again.
package baseline

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly-run/dayfly/bench/internal/child"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// Roles of a child.
const (
	roleHello   = "hello"
	roleProxy   = "proxy"
	roleEngines = "engines"
)

// What a child needs to know.
const (
	upstreamVariable = "DAYFLY_BENCH_UPSTREAM"
	folderVariable   = "DAYFLY_BENCH_FOLDER"
)

// startBound limits the start of a child.
const startBound = 30 * time.Second

// Address is what a child says on its standard output once it serves.
type Address struct {
	// HTTP is host:port of a server or a proxy.
	HTTP string `json:"http,omitempty"`
	// NATS and S3 are URLs, with the keys of the latter.
	NATS        string `json:"nats,omitempty"`
	S3          string `json:"s3,omitempty"`
	S3AccessKey string `json:"s3AccessKey,omitempty"`
	S3SecretKey string `json:"s3SecretKey,omitempty"`
}

// IsChild reports whether this process was started by a [Child]; its main
// function then calls [RunChild] and nothing else.
func IsChild() bool { return child.Role() != "" }

// RunChild serves its role until its standard input ends, that is until its
// parent stops it or dies, or ctx is done.
func RunChild(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end is the end
		cancel()
	}()
	switch role := child.Role(); role {
	case roleHello:
		return serveHTTP(ctx, http.HandlerFunc(hello))
	case roleProxy:
		return serveHTTP(ctx, newProxy(os.Getenv(upstreamVariable)))
	case roleEngines:
		return serveEngines(ctx, os.Getenv(folderVariable))
	default:
		return fmt.Errorf("there is no role %q", role)
	}
}

// hello answers what the functions answer.
func hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"message":"hello"}`) // the client may be gone
}

// newProxy is a ReverseProxy as people write it, but that it keeps as many
// connections as it needs: the standard two per host would measure dialling.
func newProxy(upstream string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: upstream}) },
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute},
	}
}

func serveHTTP(ctx context.Context, h http.Handler) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := json.NewEncoder(os.Stdout).Encode(Address{HTTP: listener.Addr().String()}); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveEngines runs the NATS and S3 servers of `dayfly up` in a process of their
// own, with the same data.
func serveEngines(ctx context.Context, dir string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	nats, err := natsserver.Start(natsserver.Config{Dir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0"}, log)
	if err != nil {
		return err
	}
	defer nats.Stop()
	s3Listen, err := FreeAddress()
	if err != nil {
		return err
	}
	s3, err := s3server.Start(ctx, s3server.Config{Dir: filepath.Join(dir, "s3"), Listen: s3Listen}, log)
	if err != nil {
		return err
	}
	defer s3.Stop()
	if err := json.NewEncoder(os.Stdout).Encode(Address{
		NATS: nats.URL(), S3: "http://" + s3Listen, S3AccessKey: s3.AccessKey, S3SecretKey: s3.SecretKey,
	}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// FreeAddress returns an address on loopback that nobody listens on now.
func FreeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// Child is this program, started again in another role.
type Child struct {
	// Address is where it serves.
	Address Address

	process *child.Child
}

// StartHello starts B0, a plain HTTP server.
func StartHello(ctx context.Context) (*Child, error) { return start(ctx, roleHello) }

// StartProxy starts B1, a reverse proxy in front of a server at host:port.
func StartProxy(ctx context.Context, upstream string) (*Child, error) {
	return start(ctx, roleProxy, upstreamVariable+"="+upstream)
}

// StartEngines starts NATS and S3 with their data in dir, as `dayfly up` leaves it.
func StartEngines(ctx context.Context, dir string) (*Child, error) {
	return start(ctx, roleEngines, folderVariable+"="+dir)
}

func start(ctx context.Context, role string, env ...string) (*Child, error) {
	// Not tied to ctx: what uses it is stopped before it. Stop ends it, and so does the end
	// of this process.
	process, err := child.Start(context.WithoutCancel(ctx), role, env...)
	if err != nil {
		return nil, err
	}
	c := &Child{process: process}
	if err := c.await(ctx, process.Out); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), c.Stop())
	}
	return c, nil
}

// await reads the child's address.
func (c *Child) await(ctx context.Context, stdout io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	said := make(chan error, 1)
	go func() {
		in := bufio.NewReader(stdout)
		for { // the S3 server prints lines of its own
			line, err := in.ReadBytes('\n')
			if err == nil && line[0] != '{' {
				continue
			}
			if err == nil {
				err = json.Unmarshal(line, &c.Address)
			}
			said <- err
			break
		}
		_, _ = io.Copy(io.Discard, in) // nothing more of interest
	}()
	select {
	case err := <-said:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop ends the child and waits for it; see [child.Child.Stop].
func (c *Child) Stop() error { return c.process.Stop() }
