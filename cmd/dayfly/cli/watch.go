package cli

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/functions/bundle"
)

const (
	// watchEvery is how often a folder is looked at; a change counts once it is as old.
	watchEvery = 250 * time.Millisecond
	// watchShare bounds the share of time that looking takes: large folders are looked
	// at less often.
	watchShare = 10
)

// watch tells which files of a folder are not as told any more, each time that it has
// come to rest, until the context ends. It looks at the files' stamps: what a bundle may hold is few enough,
// and unlike notifications that works for any file system and needs no limits raised.
// It tells problem of a folder that cannot be read, once.
func watch(ctx context.Context, dir string, told map[string]bundle.Stamp, changes chan<- []string, problem func(error)) {
	last, pause, failures := told, watchEvery, 0
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		now, err := bundle.Snapshot(dir)
		pause = max(watchEvery, watchShare*time.Since(begun))
		if err != nil {
			// The first time an editor may be in the middle of replacing a file.
			if failures++; failures == 2 {
				problem(err)
			}
			continue
		}
		failures = 0
		settled := maps.Equal(now, last)
		last = now
		names := changed(told, now)
		if !settled || len(names) == 0 {
			continue
		}
		told = now
		select {
		case changes <- names:
		case <-ctx.Done():
			return
		}
	}
}

// changed lists the files that are not the same in both, by name.
func changed(before, now map[string]bundle.Stamp) (names []string) {
	for name, stamp := range now {
		if old, ok := before[name]; !ok || old != stamp {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
