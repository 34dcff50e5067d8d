package settings

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/wire"
)

// Live follows the settings of the functions that run here, with one watcher for each
// bucket however many they are. It holds nothing of the others. It is a lifecycle
// service and safe for concurrent use.
type Live struct {
	store *Store
	log   *slog.Logger
	stops []func()

	mu       sync.Mutex // guards what follows
	followed map[wire.FunctionID]*followed
}

// followed is the latest that is known of one function, shared by all who follow it. It
// is guarded by the mu of [Live].
type followed struct {
	users   int
	changed chan struct{} // closed and replaced at every change
	// What was read or told last, by revision. Whoever reads first may be overtaken by
	// the watcher, or the other way round: the higher revision counts.
	config         functions.Config
	configRevision uint64
	secrets        map[string]told
}

// told is what is known of a secret: its value, or that it is gone.
type told struct {
	revision uint64
	value    functions.Secret
	there    bool
}

// NewLive makes what follows a store, which is open before it is started.
func NewLive(store *Store, log *slog.Logger) *Live {
	return &Live{store: store, log: log, followed: map[wire.FunctionID]*followed{}}
}

// Start begins to watch.
func (l *Live) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.stops = append(l.stops, cancel)
	for _, watch := range []struct {
		bucket *bus.Bucket
		handle func(bus.Entry)
	}{{l.store.config, l.heardConfig}, {l.store.secrets, l.heardSecret}} {
		// What is there already is read by those who follow it.
		stop, err := watch.bucket.Updates(run, watch.handle)
		if err != nil {
			return errors.Join(unavailable(err), l.Stop(ctx))
		}
		l.stops = append(l.stops, stop)
	}
	return nil
}

// Stop ends the watchers.
func (l *Live) Stop(context.Context) error {
	for len(l.stops) > 0 { // the context last
		last := len(l.stops) - 1
		l.stops[last]()
		l.stops = l.stops[:last]
	}
	return nil
}

func (l *Live) heardConfig(e bus.Entry) {
	id, err := wire.ParseConfigKey(e.Key)
	config := noConfig()
	if err == nil && !e.Deleted {
		config, err = decodeConfig(e)
	}
	if err != nil {
		l.log.Error("configuration left out", telemetry.KeyError, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.followed[id]; f != nil {
		f.takeConfig(config, e.Revision)
	}
}

// takeConfig keeps a configuration unless a later one is known; the mu of Live is held.
func (f *followed) takeConfig(config functions.Config, revision uint64) {
	if revision <= f.configRevision {
		return
	}
	f.config, f.configRevision = config, revision
	f.tell()
}

func (f *followed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (l *Live) heardSecret(e bus.Entry) {
	id, name, err := wire.ParseSecretKey(e.Key)
	if err != nil {
		l.log.Error("secret left out", telemetry.KeyError, err)
		return
	}
	l.mu.Lock()
	f := l.followed[id]
	wanted := f != nil && f.wants(name)
	l.mu.Unlock()
	if !wanted {
		return
	}
	heard := told{revision: e.Revision, there: !e.Deleted}
	if heard.there {
		if heard.value, err = l.opened(id, name, e); err != nil { // instances keep what they have
			l.log.Error("secret not taken", telemetry.KeyFunction, id.String(), telemetry.KeyError, err)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.followed[id]; f != nil {
		f.takeSecret(name, heard)
	}
}

// wants says whether somebody asked for a secret; the mu of Live is held.
func (f *followed) wants(name string) bool {
	_, asked := f.secrets[name]
	return asked
}

// takeSecret keeps what is known of a secret unless something later is; the mu of Live
// is held.
func (f *followed) takeSecret(name string, heard told) {
	if known, asked := f.secrets[name]; asked && heard.revision > known.revision {
		f.secrets[name] = heard
		f.tell()
	}
}

func (l *Live) opened(id wire.FunctionID, name string, e bus.Entry) (functions.Secret, error) {
	stored, err := decodeSecret(e)
	if err != nil {
		return functions.Secret{}, err
	}
	return l.store.open(id, name, stored)
}

// Follow begins to follow a function; it asks nobody. The caller closes what it returns.
func (l *Live) Follow(id wire.FunctionID) *Follower {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.followed[id]
	if f == nil {
		f = &followed{changed: make(chan struct{}), config: noConfig(), secrets: map[string]told{}}
		l.followed[id] = f
	}
	f.users++
	return &Follower{live: l, id: id, of: f}
}

// Follower follows one function for one instance of it. It is safe for concurrent use.
type Follower struct {
	live *Live
	id   wire.FunctionID
	of   *followed

	mu     sync.Mutex // guards what follows
	read   bool       // the configuration was
	closed bool
}

// Close ends it. It may be called again.
func (f *Follower) Close() {
	f.mu.Lock()
	again := f.closed
	f.closed = true
	f.mu.Unlock()
	if again {
		return
	}
	l := f.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.of.users--; f.of.users == 0 {
		delete(l.followed, f.id)
	}
}

// Config returns what the function is configured with, and a channel that is closed at
// the next change of any of its settings. The first call asks the store, so that it
// sees every change that was answered before. The values must not be changed.
func (f *Follower) Config(ctx context.Context) (functions.Config, <-chan struct{}, error) {
	f.mu.Lock()
	read := f.read
	f.mu.Unlock()
	if !read {
		config, revision, err := f.live.store.readConfig(ctx, f.id)
		if err != nil {
			return functions.Config{}, nil, err
		}
		f.live.mu.Lock()
		f.of.takeConfig(config, revision)
		f.live.mu.Unlock()
		f.mu.Lock()
		f.read = true
		f.mu.Unlock()
	}
	f.live.mu.Lock()
	defer f.live.mu.Unlock()
	return f.of.config, f.of.changed, nil
}

// Load asks the store for the secrets that a version uses and returns their values. One
// that is not set, or cannot be opened, is an error with code conflict.
func (f *Follower) Load(ctx context.Context, uses []functions.SecretUse) (map[string]functions.Secret, error) {
	f.live.mu.Lock()
	for _, use := range uses { // the watcher tells of these from now on
		if !f.of.wants(use.Name) {
			f.of.secrets[use.Name] = told{}
		}
	}
	f.live.mu.Unlock()
	values := make(map[string]functions.Secret, len(uses))
	var missing []string
	for _, use := range uses {
		stored, revision, err := f.live.store.read(ctx, wire.SecretKey(f.id, use.Name))
		if errors.Is(err, bus.ErrNotFound) {
			missing = append(missing, use.Name)
			continue
		}
		if err != nil {
			return nil, unavailable(err)
		}
		value, err := f.live.store.open(f.id, use.Name, stored)
		if err != nil {
			return nil, err
		}
		values[use.Name] = value
		f.live.mu.Lock()
		f.of.takeSecret(use.Name, told{revision: revision, value: value, there: true})
		f.live.mu.Unlock()
	}
	return values, missingSecrets(f.id, missing)
}

// Secrets returns the function's secrets that were loaded, by anybody here, as they are
// now: without those that are not set any more. The channel is closed at the next change
// of any of the function's settings.
func (f *Follower) Secrets() (map[string]functions.Secret, <-chan struct{}) {
	f.live.mu.Lock()
	defer f.live.mu.Unlock()
	values := make(map[string]functions.Secret, len(f.of.secrets))
	for name, known := range f.of.secrets {
		if known.there {
			values[name] = known.value
		}
	}
	return values, f.of.changed
}
