package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// The roles need NATS and S3 outside of them. Each is this test program again, as a
// process of its own, because there is one S3 server in a process and because tests
// stop it. These variables tell it what it is.
const (
	engineKind   = "DAYFLY_E2E_ENGINE" // nats or s3
	engineDir    = "DAYFLY_E2E_DIR"
	engineListen = "DAYFLY_E2E_LISTEN"
)

// address is what an engine says once it runs.
type address struct{ URL, AccessKey, SecretKey string }

// runEngine runs an engine until stdin ends, and returns the exit code.
func runEngine(kind string) int {
	stop, at, err := startEngine(kind)
	if err == nil {
		defer stop()
		err = json.NewEncoder(os.Stdout).Encode(at)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		return 1
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

func startEngine(kind string) (stop func(), at address, err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	dir, listen := os.Getenv(engineDir), os.Getenv(engineListen)
	if kind == "nats" {
		n, err := natsserver.Start(natsserver.Config{Dir: dir, Listen: listen}, log)
		if err != nil {
			return nil, at, err
		}
		return n.Stop, address{URL: n.URL()}, nil
	}
	s, err := s3server.Start(context.Background(), s3server.Config{Dir: dir, Listen: listen}, log)
	if err != nil {
		return nil, at, err
	}
	return s.Stop, address{URL: "http://" + listen, AccessKey: s.AccessKey, SecretKey: s.SecretKey}, nil
}

// engine is a running NATS or S3 of a set-up.
type engine struct {
	*process
	at    address
	stdin io.Closer
}

// startEngine starts an engine with its data in dir. listen is where; empty for any
// free port.
func (s *suite) startEngine(kind, dir, listen string) (*engine, error) {
	if listen == "" {
		var err error
		if listen, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), engineKind+"="+kind, engineDir+"="+filepath.Join(dir, kind), engineListen+"="+listen)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e := &engine{stdin: stdin}
	if e.process, err = start(kind, cmd); err != nil {
		return nil, err
	}
	s.sawAddress(listen)
	if err := json.NewDecoder(stdout).Decode(&e.at); err != nil {
		return nil, fmt.Errorf("%s did not start: %w\n%s", kind, err, e.log.tail())
	}
	return e, nil
}

// end stops the engine and waits for it.
func (e *engine) end() error {
	_ = e.stdin.Close()
	return e.awaitEnd(patience)
}

// freeAddress finds an address that nobody listens at just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
