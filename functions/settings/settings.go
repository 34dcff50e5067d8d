// Package settings keeps what functions are configured with at run time: values that
// anybody may see, and secrets, which are sealed before they are stored.
package settings

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/wire"
)

const (
	// casAttempts bounds how often a write is tried again after others were faster.
	casAttempts = 20
	// maxConfigEntry and maxSecretEntry bound what is stored under one key, in bytes:
	// JSON may take six times its text, a sealed value four thirds of it.
	maxConfigEntry = 8 * wire.MaxConfigBytes
	maxSecretEntry = 2 * functions.MaxSecretBytes
)

// Store is the master data about settings, in two key-value buckets. Every write is
// create-only or a compare-and-set, so any number of stores may write at once. It is
// safe for concurrent use once it is open. Its errors are [*wire.Error]: unavailable
// when a bucket cannot be asked, conflict when too many write at once, or when a secret
// cannot be sealed, opened or found.
type Store struct {
	conn *bus.Conn
	ring *keyring.Ring // nil without a key
	// Set by Open.
	config  *bus.Bucket
	secrets *bus.Bucket
}

// New makes a store that seals and opens secrets with a ring; without one, which is nil,
// it refuses whatever needs it.
func New(conn *bus.Conn, ring *keyring.Ring) *Store { return &Store{conn: conn, ring: ring} }

// Open opens the buckets, creating them when there are none.
func (s *Store) Open(ctx context.Context) (err error) {
	if s.config, err = s.conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketConfig, MaxValueBytes: maxConfigEntry}); err != nil {
		return unavailable(err)
	}
	s.secrets, err = s.conn.Bucket(ctx, bus.BucketConfig{Name: wire.BucketSecrets, MaxValueBytes: maxSecretEntry})
	return unavailable(err)
}

// unavailable says that a bucket could not be asked. An error that has a code already is
// left as it is.
func unavailable(err error) error {
	if _, coded := errors.AsType[*wire.Error](err); coded || err == nil {
		return err
	}
	return wire.Errorf(wire.CodeUnavailable, "the settings could not be asked: %s", err)
}

// tooMany says that a write lost against others again and again.
func tooMany(id wire.FunctionID) error {
	return wire.Errorf(wire.CodeConflict, "the settings of function %s are being changed by too many at once; try again", id)
}

// Config returns what a function is configured with; the function need not be there.
func (s *Store) Config(ctx context.Context, id wire.FunctionID) (functions.Config, error) {
	config, _, err := s.readConfig(ctx, id)
	return config, err
}

// readConfig returns the configuration and its revision in the bucket, 0 for none.
func (s *Store) readConfig(ctx context.Context, id wire.FunctionID) (functions.Config, uint64, error) {
	e, err := s.config.Get(ctx, wire.ConfigKey(id))
	if errors.Is(err, bus.ErrNotFound) {
		return noConfig(), 0, nil
	}
	if err != nil {
		return functions.Config{}, 0, unavailable(err)
	}
	config, err := decodeConfig(e)
	return config, e.Revision, err
}

// ChangeConfig sets values of a function and removes others, all at once, and returns
// what it is configured with now. Removing what is not there is no error. The function
// need not be there.
func (s *Store) ChangeConfig(ctx context.Context, id wire.FunctionID, set map[string]string, remove []string) (functions.Config, error) {
	key := wire.ConfigKey(id)
	for range casAttempts {
		config, revision, err := s.readConfig(ctx, id)
		if err != nil {
			return config, err
		}
		values := maps.Clone(config.Values)
		for _, name := range remove {
			delete(values, name)
		}
		maps.Copy(values, set)
		if maps.Equal(values, config.Values) {
			return config, nil
		}
		if err := functions.CheckConfig(values); err != nil {
			return functions.Config{}, err
		}
		data, err := json.Marshal(values)
		if err != nil {
			return functions.Config{}, wire.Errorf(wire.CodeInternal, "encode the configuration of %s: %s", id, err)
		}
		if revision == 0 {
			revision, err = s.config.Create(ctx, key, data)
		} else {
			revision, err = s.config.Update(ctx, key, data, revision)
		}
		if !errors.Is(err, bus.ErrExists) && !errors.Is(err, bus.ErrConflict) {
			return functions.Config{Revision: text(revision), Values: values}, unavailable(err)
		}
	}
	return functions.Config{}, tooMany(id)
}

// Forget removes all settings of a function and reports whether there were any.
func (s *Store) Forget(ctx context.Context, id wire.FunctionID) (had bool, err error) {
	keys, err := s.secrets.Keys(ctx, wire.FunctionSecrets(id))
	if err != nil {
		return false, unavailable(err)
	}
	for _, key := range keys {
		gone, err := remove(ctx, s.secrets, id, key)
		if had = had || gone; err != nil {
			return had, err
		}
	}
	gone, err := remove(ctx, s.config, id, wire.ConfigKey(id))
	return had || gone, err
}

// remove removes a key of a function's and reports whether it was there.
func remove(ctx context.Context, bucket *bus.Bucket, id wire.FunctionID, key string) (bool, error) {
	for range casAttempts {
		e, err := bucket.Get(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			return false, nil
		}
		if err == nil {
			err = bucket.Delete(ctx, key, e.Revision)
		}
		if !errors.Is(err, bus.ErrConflict) {
			return err == nil, unavailable(err)
		}
	}
	return false, tooMany(id)
}

func noConfig() functions.Config {
	return functions.Config{Revision: functions.NoConfigRevision, Values: map[string]string{}}
}

func text(revision uint64) string { return strconv.FormatUint(revision, 10) }

func decodeConfig(e bus.Entry) (functions.Config, error) {
	config := functions.Config{Revision: text(e.Revision), Values: map[string]string{}}
	if err := json.Unmarshal(e.Value, &config.Values); err != nil {
		return config, wire.Errorf(wire.CodeInternal, "settings: key %s is damaged: %s", e.Key, err)
	}
	return config, nil
}
