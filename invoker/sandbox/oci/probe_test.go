package oci

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestChoose: of the two, crun is the first that works, also where cgroup v2 is
// mounted beside v1: what crun does not bear is hidden from it, and from it only.
func TestChoose(t *testing.T) {
	s := openReady(t, t.Name(), "")
	if name := filepath.Base(s.Runtime()); name != "crun" {
		t.Errorf("it chose %s", name)
	}
	if s.seccompBPF == "" {
		t.Error("crun compiles the seccomp filter for every container")
	}
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	host, hidden := parseHierarchies(mountinfo)
	must(t, s.launcher.do(t.Context(), func() error {
		mountinfo, err = os.ReadFile("/proc/thread-self/mountinfo")
		return err
	}))
	seen, left := parseHierarchies(mountinfo)
	if len(left) != 0 || len(seen) != len(host) {
		t.Errorf("the host has %v and %v, the runtime sees %v and %v", host, hidden, seen, left)
	}
}

// TestFallback: a runtime that fails is passed over, and the log says why.
func TestFallback(t *testing.T) {
	runc, err := exec.LookPath("runc")
	must(t, err)
	dir := t.TempDir()
	must(t, os.Symlink(runc, filepath.Join(dir, "runc")))
	must(t, os.WriteFile(filepath.Join(dir, "crun"), []byte("#!/bin/sh\nwhile [ $# -gt 0 ]; do [ $1 = --log ] && echo no luck >$2; shift; done\nexit 3\n"), 0o755))
	t.Setenv("PATH", dir)
	var log bytes.Buffer
	shared := sharedDir(t)
	s, err := New(Config{Owner: t.Name(), Dir: shared}, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	must(t, s.Close(t.Context()))
	if s.Runtime() != filepath.Join(dir, "runc") || !strings.Contains(log.String(), "no luck") {
		t.Errorf("it chose %s and says %s", s.Runtime(), log.String())
	}
	must(t, os.Remove(filepath.Join(dir, "runc")))
	_, err = New(Config{Owner: t.Name(), Dir: shared}, quiet())
	if err == nil || !strings.Contains(err.Error(), "no luck") || !strings.Contains(err.Error(), "install crun") {
		t.Errorf("without any: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", "relative", "/a:b", "/a,b", `/a\\b`} {
		if _, err := New(Config{Owner: "x", Dir: dir}, quiet()); err == nil {
			t.Errorf("folder %q was taken", dir)
		}
	}
}
