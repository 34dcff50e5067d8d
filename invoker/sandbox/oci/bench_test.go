package oci

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/sandboxtest"
)

// BenchmarkStart starts containers that end at once, in turns: the runtime's
// program alone with little configuration (bare), and the sandbox with all of it
// (whole: to the exit; start: to Start's return; remove). Medians in milliseconds.
func BenchmarkStart(b *testing.B) {
	for _, name := range candidates() {
		b.Run(name, func(b *testing.B) {
			s := openReady(b, "bench "+name, name)
			bare := bareBundle(b, s)
			var alone, whole, start, remove []float64
			for b.Loop() {
				alone = append(alone, millis(b, func() error { return runBare(s, bare) }))
				var c sandbox.Container
				spec := plainSpec("/bin/true")
				begun := time.Now()
				start = append(start, millis(b, func() (err error) {
					c, err = s.Start(context.Background(), spec)
					return err
				}))
				<-c.Exited()
				whole = append(whole, time.Since(begun).Seconds()*1000)
				remove = append(remove, millis(b, func() error { return c.Remove(context.Background()) }))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(alone), "bare-ms")
			b.ReportMetric(median(start), "start-ms")
			b.ReportMetric(median(whole), "whole-ms")
			b.ReportMetric(median(remove), "remove-ms")
			b.ReportMetric(median(whole)/median(alone), "whole/bare")
		})
	}
}

func millis(b *testing.B, f func() error) float64 {
	b.Helper()
	begun := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begun).Seconds() * 1000
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// bareBundle makes a bundle as the runtime's own `spec` command does, with
// namespaces and mounts but without limits and a seccomp filter.
func bareBundle(b *testing.B, s *Sandbox) string {
	b.Helper()
	dir := b.TempDir()
	config := specs.Spec{
		Version: "1.0.2", Mounts: systemMounts,
		Root:    &specs.Root{Path: filepath.Join(s.roots, rootName(sandboxtest.Root(true))), Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true},
		Linux: &specs.Linux{
			CgroupsPath: s.cgroup("bare"),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
	content, err := json.Marshal(config)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "config.json"), content, 0o600)); err != nil {
		b.Fatal(err)
	}
	return dir
}

// runBare runs the runtime's program in the foreground to the container's end.
func runBare(s *Sandbox, bundle string) error {
	var p *os.Process
	err := s.launcher.do(context.Background(), func() (err error) {
		p, err = os.StartProcess(s.runtime.path, []string{s.runtime.path, "--root", s.state, "run", "--bundle", bundle, "bare"},
			&os.ProcAttr{Files: []*os.File{s.runtime.null, s.runtime.null, s.runtime.null}})
		return err
	})
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	return err
}
