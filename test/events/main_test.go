package events_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(childKind); kind != "" {
		os.Exit(runChild(kind)) //nolint:forbidigo // TestMain is the main of a test
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code) //nolint:forbidigo // as above
}

// What all tests share; set once, before any of them runs.
var (
	binary  string // dayfly, as it is released
	tempDir string // short, because paths of sockets are
)

func runTests(m *testing.M) (code int, err error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return 1, errors.New("no source path: build the tests without -trimpath")
	}
	if tempDir, err = os.MkdirTemp("", "ev"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tempDir)) }()
	binary = filepath.Join(tempDir, "dayfly")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/dayfly")
	build.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return m.Run(), nil
}
