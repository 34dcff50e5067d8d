package invoker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker/sandbox"
)

const (
	// secretsBytes bounds the folder of secrets: all files twice, for a moment, as one is
	// written beside the one that it replaces; and a page for each.
	secretsBytes = 2*functions.MaxSecrets*functions.MaxSecretBytes + 2*functions.MaxSecrets*4096
	// newSecret is the name of a file that is not complete. No secret has a dot in it.
	newSecret = ".new"
	// secretRetry is the pause after files could not be written.
	secretRetry = time.Second
)

// loadSecrets gets the secrets of the instance's version, and writes those that are
// files before the function runs. The folder is in the container's memory, and the
// function cannot write to it.
func (in *instance) loadSecrets(ctx context.Context) error {
	uses := in.version.Spec.Secrets
	if len(uses) == 0 {
		return nil
	}
	values, err := in.settings.Load(ctx, uses)
	if err != nil {
		return err
	}
	in.secretEnv = map[string]string{}
	for _, use := range uses {
		if use.InEnv() {
			in.secretEnv[use.Name] = values[use.Name].Reveal()
		}
	}
	in.secretFiles = map[string]functions.Secret{}
	return in.placeSecrets(values)
}

// hasSecretFiles says whether the instance's files follow changes.
func (in *instance) hasSecretFiles() bool {
	for _, use := range in.version.Spec.Secrets {
		if use.InFile() {
			return true
		}
	}
	return false
}

// placeSecrets makes the files those of the given values: each is replaced at once, or
// removed, when it is another one than before.
func (in *instance) placeSecrets(values map[string]functions.Secret) error {
	var dir *os.Root
	defer func() {
		if dir != nil {
			_ = dir.Close()
		}
	}()
	for _, use := range in.version.Spec.Secrets {
		value, set := values[use.Name]
		before, there := in.secretFiles[use.Name]
		if !use.InFile() || set == there && value.Equal(before) {
			continue
		}
		if dir == nil {
			opened, err := in.container.OpenDir(functions.SecretsRoot)
			if err != nil {
				return err
			}
			dir = opened
		}
		if !set {
			if err := dir.Remove(use.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			delete(in.secretFiles, use.Name)
			continue
		}
		if err := replaceFile(dir, use.Name, value.Reveal()); err != nil {
			return err
		}
		in.secretFiles[use.Name] = value
	}
	return nil
}

// replaceFile writes a file that only the function's user may read.
func replaceFile(dir *os.Root, name, text string) (err error) {
	if err := dir.Remove(newSecret); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := dir.OpenFile(newSecret, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Chown(functionUID, functionUID), file.Close()); err == nil {
		err = dir.Rename(newSecret, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(newSecret))
	}
	return nil
}

// followSecrets writes the files of an instance anew whenever a secret of its function
// changes, until it ends.
func (inv *Invoker) followSecrets(in *instance) {
	for {
		values, changed := in.settings.Secrets()
		err := in.placeSecrets(values)
		var again <-chan time.Time
		if err != nil && !errors.Is(err, sandbox.ErrEnded) {
			inv.log.Warn("secrets of an instance could not be written; trying again", telemetry.KeyInstance, string(in.id),
				telemetry.KeyFunction, in.version.String(), telemetry.KeyError, err)
			again = time.After(secretRetry)
		}
		select {
		case <-changed:
		case <-again:
		case <-in.container.Exited():
			return
		}
	}
}
