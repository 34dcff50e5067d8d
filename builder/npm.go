package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dayfly-run/dayfly/wire"
)

// The npm that installs packages: one file of 3 MB from the registry that the packages
// come from, where Debian's is 70 packages of 180 MB. It is fetched when it is first
// needed, and its digest is known.
const (
	npmVersion   = "10.9.9"
	npmIntegrity = "1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg=="
	// maxNpm bounds it, in bytes, packed, and maxNpmBytes unpacked.
	maxNpm      = 16 << 20
	maxNpmBytes = 128 << 20
)

// npmAdvice is what to do where npm cannot be fetched.
const npmAdvice = "name a registry with npm_config_registry where the builder is started, or put node_modules into the folder and deploy with --vendor"

// npmTool returns the folder of npm, which is fetched when there is none.
func (b *Builder) npmTool(ctx context.Context) (string, error) {
	done, err := b.npm.take(ctx)
	if err != nil {
		return "", b.jobFailed(ctx, "npm could not be fetched", "", err)
	}
	defer done()
	dir := filepath.Join(b.cfg.DataDir, "tools", "npm-"+npmVersion)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	registry := setting(b.cfg.NpmEnv, "npm_config_registry")
	if registry == "" && b.cfg.NpmRegistry != nil {
		registry = b.cfg.NpmRegistry(ctx)
	}
	if registry == "" {
		return "", wire.Errorf(wire.CodeInvalid, "npm could not be fetched: the builder's machine knows no registry; %s", npmAdvice)
	}
	packed, err := fetchNpm(ctx, strings.TrimSuffix(registry, "/")+"/npm/-/npm-"+npmVersion+".tgz")
	if err != nil {
		return "", err
	}
	work := dir + ".new"
	if err := errors.Join(os.RemoveAll(work), makeFolder(work)); err != nil {
		return "", err
	}
	if err := unpackNpm(packed, work); err != nil {
		return "", fmt.Errorf("unpack npm: %w", err)
	}
	return dir, os.Rename(work, dir)
}

func fetchNpm(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "the builder's npm registry is no address: %s", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, wire.Errorf(wire.CodeUnavailable, "npm could not be fetched: %s: %s could not be reached; %s", err, request.URL.Host, npmAdvice)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, wire.Errorf(wire.CodeUnavailable, "npm could not be fetched: %s answered %s for %s; %s", request.URL.Host, response.Status, request.URL.Path, npmAdvice)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxNpm))
	if err != nil {
		return nil, wire.Errorf(wire.CodeUnavailable, "npm could not be fetched: %s; %s", err, npmAdvice)
	}
	sum := sha512.Sum512(data)
	if have := base64.StdEncoding.EncodeToString(sum[:]); subtle.ConstantTimeCompare([]byte(have), []byte(npmIntegrity)) == 0 {
		return nil, wire.Errorf(wire.CodeUnavailable, "npm could not be fetched: what %s has as version %s is not what was published; %s", request.URL.Host, npmVersion, npmAdvice)
	}
	return data, nil
}

// unpackNpm unpacks a package, whose files are all in one folder, into dir.
func unpackNpm(packed []byte, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	archive := tar.NewReader(io.LimitReader(unzipped, maxNpmBytes))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(path.Clean(header.Name), "/")
		if header.Typeflag != tar.TypeReg || !fs.ValidPath(name) {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, archive) //nolint:gosec // the archive is bounded
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
