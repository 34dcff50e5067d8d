package baseline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/runtimes"
)

// Image names the Docker image of a runtime's root file system, which Dayfly made
// when its invoker first started. The error says when it is not there.
func Image(ctx context.Context, runtime string) (string, error) {
	rt, ok := runtimes.Lookup(runtime)
	if !ok {
		return "", fmt.Errorf("no runtime %q", runtime)
	}
	image := "dayfly-root-" + rt.Root() + ":" + string(rt.RootDigest())
	if _, err := docker(ctx, "image", "inspect", "--format", "{{.ID}}", image); err != nil {
		return "", err
	}
	return image, nil
}

// DockerRun runs a command in a fresh container without network through the
// Docker command line, and returns the time until its first byte of output. The
// time that the engine takes to remove the container afterwards does not count.
func DockerRun(ctx context.Context, image string, command ...string) (time.Duration, error) {
	args := append([]string{"run", "--rm", "--network", "none", image}, command...)
	return firstByte(exec.CommandContext(ctx, "docker", args...))
}

// ExportRoot unpacks an image's root file system into a new folder.
func ExportRoot(ctx context.Context, image, dir string) error {
	id, err := docker(ctx, "create", image, "true")
	if err != nil {
		return err
	}
	tar := dir + ".tar"
	_, err = docker(ctx, "export", "--output", tar, id)
	_, rmErr := docker(ctx, "rm", id)
	if err = errors.Join(err, rmErr, os.Mkdir(dir, 0o755)); err == nil {
		var out []byte
		if out, err = exec.CommandContext(ctx, "tar", "--extract", "--file", tar, "--directory", dir, "--exclude", "dev/*").CombinedOutput(); err != nil {
			err = fmt.Errorf("tar: %w: %s", err, out)
		}
	}
	return errors.Join(err, os.Remove(tar))
}

// DockerCommand returns how long the Docker command line takes to start and end
// when it has nothing to ask the engine: a part of every [DockerRun].
func DockerCommand(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	_, err := docker(ctx, "--version")
	return time.Since(begun), err
}

// RemoveContainers removes the containers that carry a label, and says how many
// there were.
func RemoveContainers(ctx context.Context, label string) (int, error) {
	out, err := docker(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+label)
	if err != nil {
		return 0, err
	}
	ids := strings.Fields(out)
	if len(ids) == 0 {
		return 0, nil
	}
	_, err = docker(ctx, append([]string{"rm", "--force", "--volumes"}, ids...)...)
	return len(ids), err
}

// DockerVersion says which engine and which command line are in use.
func DockerVersion(ctx context.Context) (string, error) {
	return docker(ctx, "version", "--format", "{{.Server.Version}} (command line {{.Client.Version}})")
}

func docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("docker %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
