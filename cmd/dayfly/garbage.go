package main

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"github.com/dayfly-run/dayfly/builder"
	"github.com/dayfly-run/dayfly/internal/garbage"
	"github.com/dayfly-run/dayfly/internal/roots"
	"github.com/dayfly-run/dayfly/wire"
)

// buildMemory is how long the record of a build stays that no deploy asks for, and with
// it the packages that it has fetched.
const buildMemory = 7 * 24 * time.Hour

// addGarbage adds what removes from S3 that to which nothing refers.
func (p *process) addGarbage(log *slog.Logger) error {
	if grace := p.cfg.GarbageGrace; grace < garbage.MinGrace || grace > garbage.MaxGrace {
		return wire.Errorf(wire.CodeInvalid, "--garbage-grace %s: use %s to %s", grace, garbage.MinGrace, garbage.MaxGrace)
	}
	if p.cfg.GarbageGrace < garbage.SafeGrace {
		log.Warn("builds may take longer than objects stay that nothing refers to yet", "garbage_grace", p.cfg.GarbageGrace, "safe", garbage.SafeGrace)
	}
	p.group.Add("garbage", garbage.New(garbage.Config{
		Grace: p.cfg.GarbageGrace,
		Kinds: []garbage.Kind{
			{Prefix: wire.AllBundles}, {Prefix: wire.AllCode}, {Prefix: wire.AllImages}, {Prefix: wire.AllRuntimes},
			{Prefix: wire.AllBuilds, Grace: buildMemory},
		},
	}, garbage.Deps{Conn: p.engines.conn, Store: p.engines.store, Used: p.used, Metrics: p.metrics, Log: log}))
	return nil
}

// used lists the objects that versions, the records of builds and the index of root file
// systems refer to. It removes versions that deploys left behind which died.
func (p *process) used(ctx context.Context, before time.Time) (map[string]bool, error) {
	swept, err := p.registry.Sweep(ctx, before)
	if swept.Removed > 0 {
		p.log.Info("versions that no function lists were removed", "versions", swept.Removed)
	}
	if err != nil {
		return nil, err
	}
	keys := swept.Objects
	remembered, err := builder.Remembered(ctx, p.engines.store)
	if err != nil {
		return nil, err
	}
	maps.Copy(keys, remembered)
	index, err := roots.OpenIndex(ctx, p.engines.conn)
	if err != nil {
		return nil, err
	}
	list, err := index.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, root := range list {
		keys[wire.RuntimeKey(root.Digest)] = true
		for _, old := range root.Replaced { // they have a grace of their own
			keys[wire.RuntimeKey(old.Digest)] = true
		}
	}
	return keys, nil
}
