package registry

import (
	"context"

	"github.com/dayfly-run/dayfly/wire"
)

// Objects returns the keys in S3 of the artifacts of all versions, as the master data
// say at this moment.
func (r *Registry) Objects(ctx context.Context) (map[string]bool, error) {
	entries, err := r.bucket.Entries(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	keys := map[string]bool{}
	for _, e := range entries {
		_, number, err := wire.ParseFunctionKey(e.Key)
		if err != nil {
			return nil, damaged(e.Key, err)
		}
		if number == 0 {
			continue
		}
		v, err := decodeVersion(e)
		if err != nil {
			return nil, err
		}
		if v.Image != nil {
			keys[wire.ImageKey(v.Image.Digest)] = true
		} else {
			keys[wire.CodeKey(v.Code)] = true
		}
	}
	return keys, nil
}
