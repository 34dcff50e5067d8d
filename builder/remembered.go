package builder

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/dayfly-run/dayfly/internal/blob"
	"github.com/dayfly-run/dayfly/wire"
)

// Remembered returns the keys in S3 of what the records of builds name: artifacts, and
// layers of packages that no version names.
func Remembered(ctx context.Context, store *blob.Store) (map[string]bool, error) {
	var records []string
	err := store.List(ctx, wire.AllBuilds, func(o blob.Info) error {
		records = append(records, o.Key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, record := range records {
		data, err := store.GetBytes(ctx, record, maxRecord)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var m made
		if err := json.Unmarshal(data, &m); err != nil {
			continue // no builder reads it either
		}
		keys[m.object()] = true
	}
	return keys, nil
}

// object is the key of what was made.
func (m made) object() string {
	if m.Image != nil {
		return wire.ImageKey(m.Code)
	}
	return wire.CodeKey(m.Code)
}
