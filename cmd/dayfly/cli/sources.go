package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// cloneTimeout bounds fetching a repository.
	cloneTimeout = 5 * time.Minute
	// maxGitWords bounds what of git's own words is shown, in bytes.
	maxGitWords = 4 << 10
)

// folder is a function's source as a folder.
type folder struct {
	dir string
	// shown is what the user called it.
	shown string
	// made is a temporary folder to remove, empty for none.
	made string
}

func (f folder) close() error {
	if f.made == "" {
		return nil
	}
	if err := os.RemoveAll(f.made); err != nil {
		return fmt.Errorf("remove the temporary folder: %w", err)
	}
	return nil
}

// tell names the source as the user did in an error about its folder.
func (f folder) tell(err error) error {
	if e, ok := errors.AsType[*wire.Error](err); ok && f.made != "" {
		told := *e
		told.Message = strings.ReplaceAll(e.Message, f.dir, f.shown)
		return &told
	}
	return err
}

// openSource makes a folder of what a user deploys: a folder, a zip or tar.gz file,
// either of them on stdin, or a git repository. The caller closes it.
func (s *session) openSource(source string) (folder, error) {
	if source == "-" {
		return unpackSource(s.in, "stdin")
	}
	info, err := os.Stat(source)
	switch {
	case err == nil && info.Mode().IsRegular():
		file, err := os.Open(source)
		if err != nil {
			return folder{}, wire.Errorf(wire.CodeInvalid, "cannot read %s: %s", source, err)
		}
		defer func() { _ = file.Close() }()
		return unpackSource(file, source)
	case err == nil:
		return folder{dir: source, shown: source}, nil
	}
	if repo, ok := parseRepository(source); ok {
		return s.clone(repo)
	}
	if strings.Contains(source, "://") {
		return folder{}, wire.Errorf(wire.CodeInvalid,
			"%s is neither a folder, a file nor a git repository; for a repository write git+%s", source, strings.TrimPrefix(source, "git+"))
	}
	return folder{dir: source, shown: source}, nil // whoever looks into it says what is wrong
}

// unpackSource unpacks a zip or tar.gz into a temporary folder.
func unpackSource(r io.Reader, shown string) (_ folder, err error) {
	f := folder{shown: shown}
	if f.made, err = os.MkdirTemp("", "dayfly-source-*"); err != nil {
		return folder{}, fmt.Errorf("make room for the bundle: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.close() // the first error tells more
		}
	}()
	if _, err := bundle.Unpack(r, f.made, bundle.DefaultLimits()); err != nil {
		if e, ok := errors.AsType[*wire.Error](err); ok {
			return folder{}, wire.Errorf(e.Code, "%s: %s", shown, e.Message)
		}
		return folder{}, err
	}
	f.dir, err = descend(f.made)
	return f, err
}

// descend returns the folder that holds the manifest: dir, or the only thing in it, as
// many archives have one folder around all.
func descend(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read the bundle: %w", err)
	}
	if len(entries) == 1 && entries[0].IsDir() {
		inner := filepath.Join(dir, entries[0].Name())
		if _, err := os.Lstat(filepath.Join(inner, functions.ManifestName)); err == nil {
			return inner, nil
		}
	}
	return dir, nil
}

// repository is a place in a git repository.
type repository struct{ text, url, ref, folder string }

var scpLike = regexp.MustCompile(`^[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[^:]`)

// parseRepository reads URL[//FOLDER][#REF], if that is how a git repository is named.
func parseRepository(text string) (repository, bool) {
	r := repository{text: text}
	rest, forced := strings.CutPrefix(text, "git+")
	rest, r.ref, _ = strings.Cut(rest, "#")
	scheme, path, hasScheme := strings.Cut(rest, "://")
	if !hasScheme {
		scheme, path = "", rest
	}
	path, r.folder, _ = strings.Cut(path, "//")
	r.url = path
	if hasScheme {
		r.url = scheme + "://" + path
	}
	switch {
	case forced:
		return r, hasScheme || scpLike.MatchString(r.url)
	case scheme == "http", scheme == "https":
		return r, strings.HasSuffix(path, ".git")
	case scheme == "ssh", scheme == "git":
		return r, true
	}
	return r, !hasScheme && scpLike.MatchString(r.url)
}

// clone fetches one state of a repository with the user's own git, and nothing of its
// past.
func (s *session) clone(r repository) (_ folder, err error) {
	if strings.HasPrefix(r.ref, "-") || r.folder != "" && !filepath.IsLocal(r.folder) {
		return folder{}, wire.Errorf(wire.CodeInvalid, "%s: write URL//FOLDER#REF, where FOLDER is inside the repository", r.text)
	}
	if r.ref == "" {
		r.ref = "HEAD"
	}
	f := folder{shown: r.text}
	if f.made, err = os.MkdirTemp("", "dayfly-source-*"); err != nil {
		return folder{}, fmt.Errorf("make room for the repository: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.close() // the first error tells more
		}
	}()
	ctx, cancel := context.WithTimeoutCause(s.ctx, cloneTimeout,
		wire.Errorf(wire.CodeUnavailable, "%s could not be fetched within %s", r.text, cloneTimeout))
	defer cancel()
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"fetch", "--quiet", "--depth=1", "--no-tags", "--", r.url, r.ref},
		{"checkout", "--quiet", "--detach", "FETCH_HEAD"},
	} {
		if err := s.git(ctx, f.made, r.text, args); err != nil {
			return folder{}, err
		}
	}
	f.dir, err = inside(f.made, r.folder)
	if err != nil {
		return folder{}, wire.Errorf(wire.CodeInvalid, "%s: %s", r.text, err)
	}
	return f, nil
}

// git runs one command of git. When it fails, its own words lead.
func (s *session) git(ctx context.Context, dir, what string, args []string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	var words bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, s.in, &words, &words
	cmd.WaitDelay = 5 * time.Second // for what git has started
	cmd.Env = append(os.Environ(), "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh", "LC_ALL=C")
	if !interactive(s.in) {
		cmd.Stdin = nil
		cmd.Env = append(cmd.Env, "GIT_TERMINAL_PROMPT=0")
	}
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return wire.Errorf(wire.CodeInvalid, "%s is a git repository, and there is no git here; install it, or deploy a folder", what)
	}
	said := strings.TrimSpace(words.String())
	if len(said) > maxGitWords {
		said = said[len(said)-maxGitWords:]
	}
	if said == "" {
		said = err.Error()
	}
	return withHint(wire.Errorf(wire.CodeInvalid, "%s", strings.ToValidUTF8(said, "")),
		fmt.Sprintf("git could not fetch %s; check the address, the #ref and your access with: git %s", what, strings.Join(args, " ")))
}

// inside returns a folder of a repository, which may not be a link that leads out.
func inside(dir, name string) (string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	found, err := filepath.EvalSymlinks(filepath.Join(root, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("it has no folder %s", name)
	case err != nil:
		return "", err
	case found != root && !strings.HasPrefix(found, root+string(filepath.Separator)):
		return "", fmt.Errorf("its folder %s is a link that leads out of it", name)
	}
	return found, nil
}
