package trace

import "os"

// Open reads the trace in a folder, in the format of [ReadAzure], or makes a synthetic one
// where the folder is empty. Zeros of the part leave its size to the trace.
func Open(dir string, part Part) (*Trace, error) {
	if dir != "" {
		return ReadAzure(os.DirFS(dir), part)
	}
	s := PublishedShape()
	s.Seed = part.Seed
	if part.Functions > 0 {
		s.Functions = part.Functions
	}
	if part.Days > 0 {
		s.Days = part.Days
	}
	return Synthesize(s)
}
