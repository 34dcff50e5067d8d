package settings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/bus"
	"github.com/dayfly-run/dayfly/internal/keyring"
	"github.com/dayfly-run/dayfly/wire"
)

// sealed is a secret as it is stored.
type sealed struct {
	keyring.Sealed
	UpdatedAt time.Time `json:"updatedAt"`
}

// purpose binds a sealed value to its function and name: it cannot be given to another.
func purpose(id wire.FunctionID, name string) string {
	return "dayfly secret " + wire.SecretKey(id, name)
}

// checkKey refuses what needs a key without one.
func (s *Store) checkKey() error {
	if s.ring == nil {
		return wire.Errorf(wire.CodeConflict, "there is no key for secrets here; start gateways and invokers with --secrets-key FILE, the same file for all")
	}
	return nil
}

// SetSecret seals a value and stores it, in the place of an earlier one. The function
// need not be there: its first deploy may need it.
func (s *Store) SetSecret(ctx context.Context, id wire.FunctionID, name string, value functions.Secret, now time.Time) (functions.SecretInfo, error) {
	info := functions.SecretInfo{Name: name, UpdatedAt: now.UTC()}
	if err := errors.Join(functions.CheckSecretName(name), checkValue(name, value)); err != nil {
		return info, wire.AsError(err)
	}
	if err := s.checkKey(); err != nil {
		return info, err
	}
	keys, err := s.secrets.Keys(ctx, wire.FunctionSecrets(id))
	if err != nil {
		return info, unavailable(err)
	}
	key := wire.SecretKey(id, name)
	if len(keys) >= functions.MaxStoredSecrets && !slices.Contains(keys, key) {
		return info, wire.Errorf(wire.CodeTooLarge, "function %s has %d secrets already, and more are not allowed; remove one with `dayfly secrets unset`", id, len(keys))
	}
	for range casAttempts {
		e, err := s.secrets.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return info, unavailable(err)
		}
		err = s.write(ctx, id, name, []byte(value.Reveal()), info.UpdatedAt, e.Revision)
		if !errors.Is(err, bus.ErrExists) && !errors.Is(err, bus.ErrConflict) {
			return info, unavailable(err)
		}
	}
	return info, tooMany(id)
}

// checkValue refuses what cannot be a variable. It shows nothing of the value.
func checkValue(name string, value functions.Secret) error {
	v := value.Reveal()
	switch {
	case v == "":
		return wire.Errorf(wire.CodeInvalid, "the value of the secret %s is empty; give one, or remove the secret with `dayfly secrets unset`", name)
	case len(v) > functions.MaxSecretBytes:
		return wire.Errorf(wire.CodeTooLarge, "the value of the secret %s has %d bytes; at most %d are allowed", name, len(v), functions.MaxSecretBytes)
	case strings.ContainsRune(v, 0) || !utf8.ValidString(v):
		return wire.Errorf(wire.CodeInvalid, "the value of the secret %s is no text: encode it, for example in base64", name)
	}
	return nil
}

// write seals a value and stores it if the key is still at a revision, 0 for none.
func (s *Store) write(ctx context.Context, id wire.FunctionID, name string, value []byte, at time.Time, revision uint64) error {
	text, err := s.ring.Seal(value, purpose(id, name))
	if err != nil {
		return wire.Errorf(wire.CodeInternal, "seal the secret %s of %s: %s", name, id, err)
	}
	data, err := json.Marshal(sealed{Sealed: text, UpdatedAt: at})
	if err != nil {
		return wire.Errorf(wire.CodeInternal, "encode the secret %s of %s: %s", name, id, err)
	}
	if revision == 0 {
		_, err = s.secrets.Create(ctx, wire.SecretKey(id, name), data)
	} else {
		_, err = s.secrets.Update(ctx, wire.SecretKey(id, name), data, revision)
	}
	return err
}

// UnsetSecret removes a secret; one that is not there is not_found.
func (s *Store) UnsetSecret(ctx context.Context, id wire.FunctionID, name string) error {
	if err := functions.CheckSecretName(name); err != nil {
		return err
	}
	had, err := remove(ctx, s.secrets, id, wire.SecretKey(id, name))
	if err == nil && !had {
		return wire.Errorf(wire.CodeNotFound, "function %s has no secret %s", id, name)
	}
	return err
}

// Secrets lists the secrets that are set for a function, by name.
func (s *Store) Secrets(ctx context.Context, id wire.FunctionID) ([]functions.SecretInfo, error) {
	keys, err := s.secrets.Keys(ctx, wire.FunctionSecrets(id))
	if err != nil {
		return nil, unavailable(err)
	}
	list := make([]functions.SecretInfo, 0, len(keys))
	for _, key := range keys {
		_, name, err := wire.ParseSecretKey(key)
		if err != nil {
			continue // none of ours
		}
		stored, _, err := s.read(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, unavailable(err)
		}
		list = append(list, functions.SecretInfo{Name: name, UpdatedAt: stored.UpdatedAt})
	}
	return list, nil
}

// read returns what is stored under a key, and its revision.
func (s *Store) read(ctx context.Context, key string) (stored sealed, revision uint64, err error) {
	e, err := s.secrets.Get(ctx, key)
	if err != nil {
		return stored, 0, err
	}
	stored, err = decodeSecret(e)
	return stored, e.Revision, err
}

func decodeSecret(e bus.Entry) (stored sealed, err error) {
	if err := json.Unmarshal(e.Value, &stored); err != nil {
		return stored, wire.Errorf(wire.CodeInternal, "settings: key %s is damaged: %s", e.Key, err)
	}
	return stored, nil
}

// open opens what is stored.
func (s *Store) open(id wire.FunctionID, name string, stored sealed) (functions.Secret, error) {
	if err := s.checkKey(); err != nil {
		return functions.Secret{}, err
	}
	value, err := s.ring.Open(stored.Sealed, purpose(id, name))
	if err != nil {
		return functions.Secret{}, wire.Errorf(wire.CodeConflict, "the secret %s of function %s could not be opened: %s; check --secrets-key, or set the secret again", name, id, err)
	}
	return functions.NewSecret(string(value)), nil
}

// Require fails with conflict when a secret that is used is not set or could not be
// opened, and says how to set it.
func (s *Store) Require(ctx context.Context, id wire.FunctionID, uses []functions.SecretUse) error {
	if len(uses) == 0 {
		return nil
	}
	if err := s.checkKey(); err != nil {
		return err
	}
	var missing []string
	for _, use := range uses {
		stored, _, err := s.read(ctx, wire.SecretKey(id, use.Name))
		switch {
		case errors.Is(err, bus.ErrNotFound):
			missing = append(missing, use.Name)
		case err != nil:
			return unavailable(err)
		case !s.ring.Has(stored.Key):
			return wire.Errorf(wire.CodeConflict, "the secret %s of function %s is sealed with a key that is not in the file of --secrets-key; add the key, or set the secret again", use.Name, id)
		}
	}
	return missingSecrets(id, missing)
}

// missingSecrets names secrets that are not set, and the commands that set them.
func missingSecrets(id wire.FunctionID, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var commands strings.Builder
	for _, name := range names {
		fmt.Fprintf(&commands, "\n  dayfly secrets set %s %s", id, name)
	}
	return wire.Errorf(wire.CodeConflict, "function %s uses secrets that are not set: %s; set them with:%s", id, strings.Join(names, ", "), commands.String())
}

// Rotate seals every secret anew: each gets a new key of its own, sealed with the first
// one of the file. It goes on after a secret that cannot be opened, and returns how many
// were sealed. What a call that was broken off has not reached is sealed as before, and
// the next one seals all.
func (s *Store) Rotate(ctx context.Context) (count int, err error) {
	if err := s.checkKey(); err != nil {
		return 0, err
	}
	keys, err := s.secrets.Keys(ctx, ">")
	if err != nil {
		return 0, unavailable(err)
	}
	var failed []string
	var first error
	for _, key := range keys {
		id, name, err := wire.ParseSecretKey(key)
		if err != nil {
			continue // none of ours
		}
		err = s.reseal(ctx, id, name)
		switch {
		case errors.Is(err, bus.ErrNotFound): // it was removed meanwhile
		case wire.HasCode(err, wire.CodeUnavailable):
			return count, err
		case err != nil:
			failed = append(failed, key)
			if first == nil {
				first = err
			}
		default:
			count++
		}
	}
	if len(failed) > 0 {
		return count, wire.Errorf(wire.CodeConflict, "%d secrets are sealed anew, %d are not; the first of them: %s", count, len(failed), wire.AsError(first).Message)
	}
	return count, nil
}

// reseal seals one secret anew.
func (s *Store) reseal(ctx context.Context, id wire.FunctionID, name string) error {
	for range casAttempts {
		stored, revision, err := s.read(ctx, wire.SecretKey(id, name))
		if errors.Is(err, bus.ErrNotFound) {
			return err
		}
		if err != nil {
			return unavailable(err)
		}
		value, err := s.open(id, name, stored)
		if err != nil {
			return err
		}
		err = s.write(ctx, id, name, []byte(value.Reveal()), stored.UpdatedAt, revision)
		if !errors.Is(err, bus.ErrConflict) {
			return unavailable(err)
		}
	}
	return tooMany(id)
}
