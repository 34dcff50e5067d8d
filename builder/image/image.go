// Package image turns the archive of a container image into one root file system:
// its layers, applied in order, as a single tar. It understands what `docker save`
// writes and the OCI image layout, compressed or not, and believes neither: every
// digest is checked, nothing is unpacked to disk but whole layers under names of
// our own, and everything has a bound.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// Limits bound what an image may hold.
type Limits struct {
	// Bytes bounds the archive, and the layers together, uncompressed.
	Bytes int64
	// Entries bounds the files and folders of all layers together.
	Entries int
	// NameBytes bounds their names and the targets of their links.
	NameBytes int64
}

// DefaultLimits are those of a builder.
func DefaultLimits() Limits { return Limits{Bytes: 4 << 30, Entries: 300_000, NameBytes: 32 << 20} }

// Config is what an image says about the process that it is made for.
type Config struct {
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkDir    string
	// Bytes is the size of the root file system's files together.
	Bytes int64
}

// The bounds of a [Config], which every call of a version carries along.
const (
	maxArgs     = 64
	maxEnv      = 200
	maxTextSize = 16 << 10
)

// Flatten reads the image archive f and writes its root file system to out as
// an uncompressed tar, the same bytes for the same image. arch is the architecture
// that is wanted, as Go calls it. work is a folder for files on their way; none is left.
// The caller closes f. An archive that is at fault is a [*wire.Error] with code
// invalid or too_large.
func Flatten(ctx context.Context, f *os.File, work, arch string, limits Limits, out io.Writer) (Config, error) {
	a, err := openArchive(ctx, f, work, limits)
	if err != nil {
		return Config{}, err
	}
	defer a.close()
	found, err := a.locate(arch)
	if err != nil {
		return Config{}, err
	}
	config, diffs, err := found.config(arch)
	if err != nil {
		return Config{}, err
	}
	if len(diffs) != len(found.layers) {
		return Config{}, invalid("the image's configuration knows %d layers, its manifest %d; make the archive anew", len(diffs), len(found.layers))
	}
	t := newTree(limits)
	left := limits.Bytes
	for i, layer := range found.layers {
		data, size, err := a.layer(ctx, layer, diffs[i], left)
		if err != nil {
			return Config{}, within(err, "layer %d", i+1)
		}
		defer data.Close()
		left -= size
		if err := t.apply(ctx, data); err != nil {
			return Config{}, within(err, "layer %d", i+1)
		}
	}
	if err := t.addMountPoints(); err != nil {
		return Config{}, err
	}
	config.Bytes, err = t.write(ctx, out)
	return config, err
}

// document is the part of an image's configuration that matters here.
type document struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		Entrypoint []string `json:"Entrypoint"` //nolint:tagliatelle // as Docker spells it
		Cmd        []string `json:"Cmd"`        //nolint:tagliatelle // as above
		Env        []string `json:"Env"`        //nolint:tagliatelle // as above
		WorkingDir string   `json:"WorkingDir"` //nolint:tagliatelle // as above
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"` //nolint:tagliatelle // as above
	} `json:"rootfs"`
}

// config reads what the image says about itself, and the digests of its layers as
// they are uncompressed.
func (i located) config(arch string) (c Config, diffs []string, err error) {
	var d document
	if err := json.Unmarshal(i.configuration, &d); err != nil {
		return c, nil, invalid("the image's configuration is no JSON: %s", err)
	}
	if d.OS != "" && d.OS != "linux" || d.Architecture != "" && d.Architecture != arch {
		return c, nil, invalid("the image is for %s/%s, and here it would run on linux/%s; build it with --platform linux/%s",
			d.OS, d.Architecture, arch, arch)
	}
	c = Config{Entrypoint: d.Config.Entrypoint, Cmd: d.Config.Cmd, Env: d.Config.Env, WorkDir: d.Config.WorkingDir}
	if c.WorkDir == "" {
		c.WorkDir = "/"
	}
	return c, d.RootFS.DiffIDs, c.check()
}

func (c Config) check() error {
	size := len(c.WorkDir)
	for _, list := range [][]string{c.Entrypoint, c.Cmd, c.Env} {
		for _, text := range list {
			size += len(text)
			if strings.ContainsRune(text, 0) {
				return invalid("the image's configuration holds a NUL byte in %.40q", text)
			}
		}
	}
	switch {
	case len(c.Entrypoint)+len(c.Cmd) > maxArgs, len(c.Env) > maxEnv, size > maxTextSize:
		return wire.Errorf(wire.CodeTooLarge, "the image's command and environment are over %d arguments, %d variables or %d bytes together",
			maxArgs, maxEnv, maxTextSize)
	case !path.IsAbs(c.WorkDir) || strings.ContainsRune(c.WorkDir, 0):
		return invalid("the image's working directory %.80q is no absolute path", c.WorkDir)
	}
	for _, variable := range c.Env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return invalid("the image's environment holds %.40q, which sets no variable", variable)
		}
	}
	return nil
}

// within says where an error is; a coded one keeps its code.
func within(err error, format string, args ...any) error {
	where := fmt.Sprintf(format, args...)
	if e, coded := errors.AsType[*wire.Error](err); coded {
		return wire.Errorf(e.Code, "%s: %s", where, e.Message)
	}
	return fmt.Errorf("%s: %w", where, err)
}

func invalid(format string, args ...any) error {
	return wire.Errorf(wire.CodeInvalid, format, args...)
}
