package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(engineKind); kind != "" {
		os.Exit(runEngine(kind)) //nolint:forbidigo // TestMain is the main of a test
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code) //nolint:forbidigo // as above
}

// suite is what all tests of one run share.
type suite struct {
	repo string // root of the repository
	dir  string // all that a run leaves on disk is below it
	// mark is in the name of every node of this run, and so in the labels of its
	// containers and in the environment of its functions.
	mark    string
	binary  string
	goStd   string // compiled standard library that all builders share, for time's sake
	roots   string // unpacked root file systems that all oci sandboxes share, as well
	docker  *docker
	modules *moduleProxy

	up    func() (*platform, error) // the shared set-ups, started when first used
	roles func() (*platform, error)
	oci   func() (*platform, error)
	demo  func() (string, error) // scripts/demo, compiled

	mu     sync.Mutex
	shared []*platform // guarded by mu, as what follows
	addrs  []string    // every address that a process of ours listened at
	images []string    // digests of functions' own images
	owners []string    // of containers, of every platform
	kept   []string    // networks that the engine keeps: see excuse
	seq    int
}

// world is set once, before any test runs.
var world *suite

func runTests(m *testing.M) (code int, err error) {
	if world, err = newSuite(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(world.dir)) }()
	if world.modules, err = startModuleProxy(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, world.modules.stop()) }()
	if err := world.docker.removeKept(); err != nil {
		return 1, err
	}
	watching, err := world.docker.watch(world.mark)
	if err != nil {
		return 1, err
	}
	defer watching()
	if world.binary, err = world.compile("dayfly", "./cmd/dayfly"); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, errors.Join(world.stopShared(), world.awaitClean(), world.removeImages())
}

func newSuite() (*suite, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, errors.New("no source path: build the tests without -trimpath")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("these tests need root, as Dayfly itself does; use `make test`")
	}
	engine, err := openDocker()
	if err != nil {
		return nil, err
	}
	s := &suite{
		repo: filepath.Join(filepath.Dir(file), "..", ".."), docker: engine,
		mark: "e2e-" + uuid.NewString()[:8],
	}
	s.dir = filepath.Join(os.TempDir(), s.mark)
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		return nil, err
	}
	// What t.TempDir and our processes make is below s.dir, too.
	if err := os.Setenv("TMPDIR", s.dir); err != nil {
		return nil, err
	}
	s.goStd, s.roots = filepath.Join(s.dir, "gostd"), filepath.Join(s.dir, "roots")
	s.up = sync.OnceValues(func() (*platform, error) { return s.startShared("up", onDocker) })
	s.roles = sync.OnceValues(func() (*platform, error) { return s.startShared("roles", onDocker) })
	s.oci = sync.OnceValues(func() (*platform, error) { return s.startShared("up", onOCI) })
	s.demo = sync.OnceValues(func() (string, error) { return s.compile("demo", "./scripts/demo") })
	return s, errors.Join(os.Mkdir(s.goStd, 0o711), os.Mkdir(s.roots, 0o700))
}

// compile builds a program of the repository as it is released, without the race
// detector, and as `make build` does, so that what one of them compiled the other need not.
func (s *suite) compile(name, folder string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, folder)
	cmd.Dir = s.repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", folder, err, out)
	}
	return path, nil
}

func (s *suite) startShared(setup, sandbox string) (*platform, error) {
	dir := filepath.Join(s.dir, setup+"-"+sandbox)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	p, err := s.startPlatform(setup, dir, options{sandbox: sandbox})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared = append(s.shared, p)
	return p, nil
}

func (s *suite) stopShared() error {
	var errs []error
	for _, p := range s.shared {
		if err := p.stop(); err != nil {
			errs = append(errs, fmt.Errorf("%w\n%s", err, p.logTail()))
		}
	}
	return errors.Join(errs...)
}

// awaitClean fails when anything of this run is left after all has been stopped.
func (s *suite) awaitClean() error {
	return poll(patience, func() error {
		if left := s.leftovers(); len(left) > 0 {
			return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
		return nil
	})
}

// newName makes a name for a node: valid, and unique in the whole run.
func (s *suite) newName(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	return fmt.Sprintf("%s-%s-%03d", s.mark, kind, s.seq)
}

func (s *suite) sawOwner(owners ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners = append(s.owners, owners...)
}

func (s *suite) sawAddress(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = append(s.addrs, addr)
}
