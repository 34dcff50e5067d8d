package e2e_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMake runs what a stranger runs first: point 1.
func TestMake(t *testing.T) {
	t.Parallel()
	const nowhere = "DOCKER_HOST=unix:///nonexistent" // as on a machine without Docker
	// Those with Docker share their data, as in the stranger's clone: what was built stays
	// built.
	shared := t.TempDir()
	for _, c := range []struct {
		name, target string
		env          []string
		says         string
	}{
		{"demo", "demo", nil, "made by the Docker Engine"},
		{"up", "up", nil, "made by the Docker Engine"},
		{"without Docker", "demo", []string{nowhere}, "containers are made by an OCI runtime"},
	} {
		target := c.target
		t.Run(c.name, func(t *testing.T) { // one after the other: all build bin/dayfly
			address, err := freeAddress()
			if err != nil {
				t.Fatal(err)
			}
			world.sawAddress(address)
			dir := shared
			if c.env != nil {
				dir = t.TempDir()
			}
			data := filepath.Join(dir, "data")
			if err := shareCaches([]string{"--data", data}); err != nil {
				t.Fatal(err)
			}
			node := world.newName("make")
			world.sawOwner("invoker/"+node, "builder/"+data)
			if c.env != nil {
				if _, err := world.oci(); err != nil { // which unpacks the root file systems
					t.Fatal(err)
				}
			}
			m := startMake(t, target, append(c.env, "LISTEN="+address, "DATA="+data, "DAYFLY_NODE="+node)...)
			if target == "up" {
				m.awaitLine(t, "Ctrl-C stops everything.")
				if out := m.stdout.tail(); !strings.Contains(out, "Hello, Dayfly!") || !strings.Contains(out, "http://"+address+"/f/hello") {
					t.Errorf("make up printed %s", out)
				}
				m.interrupt(t)
			}
			if err := m.awaitEnd(startBound); err != nil {
				t.Fatal(err)
			}
			// make ends by the signal itself once what it ran has ended.
			if m.exitCode() != 0 && target != "up" {
				t.Errorf("make %s ended with %s\n%s\n%s", target, m.cmd.ProcessState, m.stdout.tail(), m.log.tail())
			}
			if target == "demo" && !strings.Contains(m.stdout.tail(), "were answered as expected") {
				t.Errorf("make demo printed %s", m.stdout.tail())
			}
			if !strings.Contains(strings.Join(m.log.all(), "\n"), c.says) {
				t.Errorf("make %s does not say %q: %s", target, c.says, m.log.tail())
			}
			p := &platform{setup: "make " + target, node: node, dir: data}
			if err := p.nothingLeft(); err != nil {
				t.Error(err)
			}
		})
	}
}

// made is a running make.
type made struct {
	*process
	stdout *logBook
}

// startMake runs a target of the Makefile with these settings.
func startMake(t *testing.T, target string, env ...string) *made {
	t.Helper()
	cmd := exec.Command("make", "--no-print-directory", target)
	cmd.Dir = world.repo
	cmd.Env = append(os.Environ(), env...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m := &made{stdout: &logBook{}}
	if m.process, err = start("make "+target, cmd); err != nil {
		t.Fatal(err)
	}
	go m.stdout.read(stdout)
	t.Cleanup(func() {
		if !m.ended() {
			m.interrupt(t)
			if err := m.awaitEnd(stopBound); err != nil {
				t.Error(err)
			}
		}
	})
	return m
}

func (m *made) awaitLine(t *testing.T, text string) {
	t.Helper()
	eventually(t, 3*time.Minute, func() error {
		switch {
		case strings.Contains(m.stdout.tail(), text):
			return nil
		case m.ended():
			t.Fatalf("%s ended with %s\n%s\n%s", m.name, m.cmd.ProcessState, m.stdout.tail(), m.log.tail())
		}
		return errors.New(m.name + " did not say: " + text)
	})
}

// interrupt does what Ctrl-C does: SIGINT to the foreground's process group.
func (m *made) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Error(err)
	}
}
