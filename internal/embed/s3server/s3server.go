// Package s3server runs VersityGW, a real S3 server with signature checks, inside
// this process, with its objects as files in a folder.
package s3server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"

	"github.com/dayfly-run/dayfly/internal/s3event"
)

// Config describes the embedded server.
type Config struct {
	// Dir holds the objects and the server's credentials.
	Dir string
	// Listen is a TCP address for clients outside this process; empty for none.
	Listen string
	// AccessKey and SecretKey are what clients must have; empty for keys that are made at
	// the first start and kept in Dir.
	AccessKey, SecretKey string
	// Notify is told of every object that appears in a bucket or goes, before the client
	// has its answer, which is an error when Notify fails; nil to tell nobody. It is
	// called by any number of goroutines at once.
	Notify func(context.Context, s3event.Change) error
}

// Region is the one that the server answers to.
const Region = "us-east-1"

// maxCopyBytes bounds an object that is copied, as S3 does.
const maxCopyBytes = 5 << 30

// Server is a running S3 server. VersityGW allows one in a process, and changes
// the process's working directory to its own.
type Server struct {
	AccessKey, SecretKey string

	socket string
	cancel context.CancelFunc
	done   chan struct{} // closed when the server has ended
	err    error         // what it ended with; read once done is closed
}

// Start runs a server and returns when it takes connections.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	// A relative path would change its meaning with the working directory.
	root, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded S3: %w", err)
	}
	objects := filepath.Join(root, "objects")
	if err := os.MkdirAll(objects, 0o700); err != nil {
		return nil, fmt.Errorf("embedded S3: %w", err)
	}
	if err := (meta.XattrMeta{}).Test(objects); err != nil {
		return nil, fmt.Errorf("embedded S3 keeps its metadata in extended attributes, which the file system of %s has not: %w; "+
			"put the data on ext4, xfs or btrfs, or use an S3 server of your own with --s3-endpoint", objects, err)
	}
	s := &Server{socket: "@dayfly-s3-" + uuid.NewString(), done: make(chan struct{})}
	if s.AccessKey, s.SecretKey = cfg.AccessKey, cfg.SecretKey; s.SecretKey == "" {
		err = s.loadKeys(filepath.Join(root, "credentials.json"))
	}
	if err != nil {
		return nil, fmt.Errorf("embedded S3: %w", err)
	}
	files, err := posix.New(objects, meta.XattrMeta{}, posix.PosixOpts{NewDirPerm: 0o700, CopyObjectThreshold: maxCopyBytes})
	if err != nil {
		return nil, fmt.Errorf("embedded S3: %w", err)
	}
	var served backend.Backend = files
	if cfg.Notify != nil {
		served = watched{Backend: files, notify: cfg.Notify, log: log}
	}
	ports := []string{s.socket}
	if cfg.Listen != "" {
		if err := listenable(ctx, cfg.Listen); err != nil {
			return nil, fmt.Errorf("embedded S3: %w", err)
		}
		ports = append(ports, cfg.Listen)
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.err = embedgw.RunVersityGW(runCtx, served, &embedgw.Config{
			RootUserAccess: s.AccessKey, RootUserSecret: s.SecretKey, Region: Region,
			Ports: ports, MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10_000,
			IAMService: auth.NewIAMServiceSingle(auth.Account{Access: s.AccessKey, Secret: s.SecretKey, Role: auth.RoleAdmin}),
			Quiet:      true, KeepAlive: true, DisableACLs: true,
		})
		if runCtx.Err() == nil {
			log.Error("embedded S3 ended", "error", s.err)
		}
	}()
	if err := s.awaitReady(ctx, cfg.Listen); err != nil {
		s.Stop()
		return nil, fmt.Errorf("embedded S3: %w", err)
	}
	log.Debug("embedded S3 is ready", "dir", root, "listen", cfg.Listen)
	return s, nil
}

// loadKeys reads the root credentials, or makes them at the first start.
func (s *Server) loadKeys(path string) error {
	keys := struct {
		AccessKey string `json:"AccessKey"` //nolint:tagliatelle // as AWS spells it
		SecretKey string `json:"SecretKey"` //nolint:tagliatelle // as AWS spells it
	}{}
	data, err := os.ReadFile(path) //nolint:gosec // the operator named the folder
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &keys); err != nil || keys.AccessKey == "" || keys.SecretKey == "" {
			return fmt.Errorf("%s is damaged; restore it, or remove it to make new keys", path)
		}
	case errors.Is(err, fs.ErrNotExist):
		keys.AccessKey, keys.SecretKey = "dayfly", rand.Text()+rand.Text()
		if data, err = json.Marshal(keys); err != nil { //nolint:gosec // they are what the file is for
			return err
		}
		if err := writeWhole(path, data); err != nil {
			return err
		}
	default:
		return err
	}
	s.AccessKey, s.SecretKey = keys.AccessKey, keys.SecretKey
	return nil
}

// writeWhole writes a file so that it is there whole or not at all.
func writeWhole(path string, data []byte) error {
	part := path + ".new"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // as above
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

func (s *Server) awaitReady(ctx context.Context, listen string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.answers(ctx, listen) {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("did not start: %w", s.err)
		case <-ctx.Done():
			return fmt.Errorf("did not start: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// listenable asks for an address before the server does, which says so only when it
// serves others already.
func listenable(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// answers reports whether the server takes connections everywhere it should.
func (s *Server) answers(ctx context.Context, listen string) bool {
	conn, err := s.Dial(ctx, "", "")
	if err == nil {
		err = conn.Close()
	}
	if err == nil && listen != "" {
		if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", listen); err == nil {
			err = conn.Close()
		}
	}
	return err == nil
}

// Dial connects to the server over its abstract unix socket, whatever the
// address says; it fits [blob.Config].
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
}

// Ready says why the server takes no connections.
func (s *Server) Ready(ctx context.Context) error {
	conn, err := s.Dial(ctx, "", "")
	if err != nil {
		return fmt.Errorf("S3: %w", err)
	}
	return conn.Close()
}

// Failed says what the server ended with that nobody stopped; nil while it runs.
func (s *Server) Failed() error {
	select {
	case <-s.done:
		return errors.Join(errors.New("S3 has ended"), s.err)
	default:
		return nil
	}
}

// Stop ends the server and waits for it. It may be called again.
func (s *Server) Stop() {
	s.cancel()
	<-s.done
}
