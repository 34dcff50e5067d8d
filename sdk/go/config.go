package dayfly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// maxConfig bounds a function's configuration, in bytes.
	maxConfig = 1 << 20
	// configPause stands between two questions when the platform does not answer.
	configPause = time.Second
)

// configWatch keeps the function's configuration. It asks for nothing until somebody
// wants it.
type configWatch struct {
	life    context.Context // ends the watch; nil for never
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	known    bool
	revision string
	values   map[string]string
	watching bool
	changed  map[*func(old, new map[string]string)]struct{}
}

// Config returns the function's configuration, as `dayfly config set` made it. The first
// call asks the platform for it; from then on it is kept up to date in the background, and
// a call costs nothing. A change is there within a second. The map is the caller's.
func Config(ctx context.Context) (map[string]string, error) {
	p := platformOf(ctx)
	if err := p.ensureConfig(ctx); err != nil {
		return nil, err
	}
	p.config.mu.Lock()
	defer p.config.mu.Unlock()
	return maps.Clone(p.config.values), nil
}

// ConfigValue returns one value of [Config], or the fallback where there is none or the
// platform does not tell.
func ConfigValue(ctx context.Context, key, fallback string) string {
	values, err := Config(ctx)
	if value, ok := values[key]; ok && err == nil {
		return value
	}
	return fallback
}

// OnChange calls f after every change of the configuration, one change after the other,
// until stop is called. What f gets is its own.
func OnChange(ctx context.Context, f func(old, new map[string]string)) (stop func(), err error) {
	p := platformOf(ctx)
	if err := p.ensureConfig(ctx); err != nil {
		return nil, err
	}
	p.config.mu.Lock()
	defer p.config.mu.Unlock()
	key := &f
	p.config.changed[key] = struct{}{}
	return func() {
		p.config.mu.Lock()
		defer p.config.mu.Unlock()
		delete(p.config.changed, key)
	}, nil
}

// ensureConfig asks for the configuration, unless it is known, and has it watched.
func (p *platform) ensureConfig(ctx context.Context) error {
	p.config.mu.Lock()
	known := p.config.known
	p.config.mu.Unlock()
	if known {
		return nil
	}
	revision, values, err := p.askConfig(ctx, "")
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	c := &p.config
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		c.known, c.revision, c.values = true, revision, values
	}
	if !c.watching {
		c.watching = true
		life := c.life
		if life == nil {
			life = context.WithoutCancel(ctx)
		}
		c.running.Add(1)
		go p.watchConfig(life)
	}
	return nil
}

// errUnchanged: the configuration is what it was.
var errUnchanged = errors.New("unchanged")

// askConfig asks for the configuration, or, with a revision, for one that is another.
func (p *platform) askConfig(ctx context.Context, after string) (revision string, values map[string]string, err error) {
	target := p.url + "/dayfly/v1/config"
	if after != "" {
		target += "?after=" + url.QueryEscape(after)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", nil, err
	}
	resp, err := p.watch.Do(r)
	if err != nil {
		return "", nil, errors.New(reason(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxConfig))
	switch {
	case err != nil:
		return "", nil, err
	case resp.StatusCode == http.StatusNoContent:
		return "", nil, errUnchanged
	case resp.StatusCode != http.StatusOK:
		return "", nil, readProblem(resp.StatusCode, body)
	}
	var got struct {
		Revision string
		Values   map[string]string
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return "", nil, fmt.Errorf("the answer is malformed: %w", err)
	}
	if got.Values == nil {
		got.Values = map[string]string{}
	}
	return got.Revision, got.Values, nil
}

// watchConfig waits for one change after the other.
func (p *platform) watchConfig(ctx context.Context) {
	defer p.config.running.Done()
	for ctx.Err() == nil {
		p.config.mu.Lock()
		after := p.config.revision
		p.config.mu.Unlock()
		revision, values, err := p.askConfig(ctx, after)
		switch {
		case errors.Is(err, errUnchanged):
		case err != nil:
			select {
			case <-ctx.Done():
			case <-time.After(configPause):
			}
		case revision != after:
			p.config.replace(revision, values)
		}
	}
}

// replace makes a change known.
func (c *configWatch) replace(revision string, values map[string]string) {
	c.mu.Lock()
	old := c.values
	c.revision, c.values = revision, values
	calls := make([]func(old, new map[string]string), 0, len(c.changed))
	for f := range c.changed {
		calls = append(calls, *f)
	}
	c.mu.Unlock()
	for _, f := range calls {
		f(maps.Clone(old), maps.Clone(values))
	}
}

// Secret returns a secret that the function's manifest names. Its file is read at each
// call, and has a new value within a second after `dayfly secrets set`; where there is no
// file, the environment variable counts, which stays what it was at the instance's start.
func Secret(ctx context.Context, name string) (string, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("secret %q: that is no name", name)
	}
	value, err := os.ReadFile(filepath.Join(platformOf(ctx).secrets, name))
	switch {
	case err == nil:
		return string(value), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if value, ok := os.LookupEnv(name); ok {
		return value, nil
	}
	return "", fmt.Errorf("secret %s: there is none; name it under secrets in dayfly.yaml, and set it with `dayfly secrets set`", name)
}
