package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/dayfly-run/dayfly/invoker/sandbox"
	"github.com/dayfly-run/dayfly/invoker/sandbox/docker"
	"github.com/dayfly-run/dayfly/invoker/sandbox/oci"
	"github.com/dayfly-run/dayfly/wire"
)

// probeBound limits asking whether a Docker Engine answers.
const probeBound = 5 * time.Second

// openSandbox opens the sandbox that was asked for, or the one that this machine has.
func (p *process) openSandbox(owner string, log *slog.Logger) (sandbox.Sandbox, error) {
	openOCI := func() (sandbox.Sandbox, error) {
		return oci.New(oci.Config{Owner: owner, Dir: filepath.Join(p.dir, oci.Kind), Runtime: p.cfg.OCIRuntime}, log)
	}
	switch p.cfg.Sandbox {
	case oci.Kind:
		return openOCI()
	case docker.Kind, "":
	default:
		return nil, wire.Errorf(wire.CodeInvalid, "--sandbox %s: use %s or %s", p.cfg.Sandbox, docker.Kind, oci.Kind)
	}
	engine, err := docker.New(owner, log)
	if err != nil || p.cfg.Sandbox == docker.Kind {
		return engine, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeBound)
	defer cancel()
	missing := engine.Check(ctx)
	if missing == nil {
		log.Info("containers are made by the Docker Engine; --sandbox chooses")
		return engine, nil
	}
	daemonless, err := openOCI()
	if err != nil {
		return nil, fmt.Errorf("nothing on this machine makes containers: %w; %w", missing, err)
	}
	log.Info("no Docker Engine answers: containers are made by an OCI runtime; --sandbox chooses")
	return daemonless, nil
}
