package bundle

import (
	"io/fs"
	"os"
	"time"
)

// Stamp tells, without reading a file, whether it is still the same.
type Stamp struct {
	Bytes      int64
	Mode       fs.FileMode
	ModifiedAt time.Time
	// Target is where a link leads.
	Target string
}

// Snapshot returns the stamps of the files that [Pack] would take of a folder, by their
// names in the bundle. Its errors are those of Pack.
func Snapshot(dir string) (map[string]Stamp, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, invalid("cannot open the folder %s: %v; name a folder that you may read", dir, reason(err))
	}
	defer root.Close()
	s := scanner{root: root, links: links{}, tally: tally{limits: DefaultLimits(), advice: packAdvice}}
	if s.rules, err = readIgnore(root); err != nil {
		return nil, err
	}
	if _, err := s.folder("."); err != nil {
		return nil, err
	}
	stamps := make(map[string]Stamp, len(s.files))
	for _, f := range s.files {
		stamps[f.name] = Stamp{Bytes: f.info.Size(), Mode: f.info.Mode(), ModifiedAt: f.info.ModTime(), Target: s.links[f.name]}
	}
	return stamps, nil
}
