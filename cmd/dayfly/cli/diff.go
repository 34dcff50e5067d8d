package cli

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func diffCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "diff REF OLD NEW",
		Short: "Show what differs between two versions",
		Long: `Diff compares two versions of a function, each a number or an alias: what their
manifests say, and the files of what was built of them.`,
		Example: "  dayfly diff thumbnail 6 7\n  dayfly diff thumbnail live 8",
		Args:    arguments("REF", "OLD", "NEW"),
		RunE: withFunction(&flags, func(s *session, ref wire.Ref, rest []string) error {
			return s.diff(ref.FunctionID, rest[0], rest[1])
		}),
	}
	flags.register(cmd)
	return cmd
}

// versionDiff is what `diff -o json` prints.
type versionDiff struct {
	From     int             `json:"from"`
	To       int             `json:"to"`
	Manifest []manifestDelta `json:"manifest"`
	Files    []fileDelta     `json:"files"`
	// Image is set when images are compared, by their digests.
	Image *imageDelta `json:"image,omitempty"`
}

// manifestDelta is a value that differs; one that is not there is null.
type manifestDelta struct {
	Key  string `json:"key"`
	From any    `json:"from"`
	To   any    `json:"to"`
}

// fileDelta is a file that differs. Sizes are in bytes, -1 where it is not there.
type fileDelta struct {
	Path      string `json:"path"`
	FromBytes int64  `json:"fromBytes"`
	ToBytes   int64  `json:"toBytes"`
}

type imageDelta struct {
	From wire.Digest `json:"from"`
	To   wire.Digest `json:"to"`
}

func (s *session) diff(id wire.FunctionID, from, to string) error {
	before, err := s.versionOf(id, from)
	if err != nil {
		return err
	}
	after, err := s.versionOf(id, to)
	if err != nil {
		return err
	}
	d := versionDiff{From: before.Number, To: after.Number, Files: []fileDelta{}}
	if d.Manifest, err = compareSpecs(before.Spec, after.Spec); err != nil {
		return err
	}
	switch {
	case before.Code == after.Code:
	case before.Image != nil || after.Image != nil:
		d.Image = &imageDelta{before.Code, after.Code}
	default:
		if d.Files, err = s.compareFiles(before, after); err != nil {
			return err
		}
	}
	if s.json {
		return s.printJSON(d)
	}
	return s.printDiff(id, d)
}

func (s *session) versionOf(id wire.FunctionID, qualifier string) (functions.Version, error) {
	ref := wire.Ref{FunctionID: id, Qualifier: qualifier}
	found, err := s.client.Function(s.ctx, ref.String())
	if err != nil {
		return functions.Version{}, s.missing(err, ref)
	}
	return found.Version, nil
}

// compareSpecs lists the settings that differ, by their paths in JSON.
func compareSpecs(before, after functions.Spec) ([]manifestDelta, error) {
	var flat [2]map[string]any
	for i, spec := range []functions.Spec{before, after} {
		data, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		var value any
		if err := json.Unmarshal(data, &value); err != nil {
			return nil, err
		}
		flat[i] = map[string]any{}
		flatten(flat[i], "", value)
	}
	deltas := []manifestDelta{}
	for _, key := range allKeys(flat[0], flat[1]) {
		if old, now := flat[0][key], flat[1][key]; old != now {
			deltas = append(deltas, manifestDelta{key, old, now})
		}
	}
	return deltas, nil
}

func allKeys[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// flatten enters the leaves of a JSON value by their paths.
func flatten(into map[string]any, path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			next := key
			if path != "" {
				next = path + "." + key
			}
			flatten(into, next, v)
		}
	case []any:
		for i, v := range value {
			flatten(into, path+"["+strconv.Itoa(i)+"]", v)
		}
	default:
		into[path] = value
	}
}

// content is what a file of an artifact is.
type content struct {
	bytes  int64
	digest [sha256.Size]byte
}

// compareFiles lists the files of two artifacts that differ.
func (s *session) compareFiles(before, after functions.Version) ([]fileDelta, error) {
	var trees [2]map[string]content
	for i, v := range []functions.Version{before, after} {
		tree, err := readTree(s, v.VersionID)
		if err != nil {
			return nil, err
		}
		trees[i] = tree
	}
	deltas := []fileDelta{}
	for _, path := range allKeys(trees[0], trees[1]) {
		old, was := trees[0][path]
		now, is := trees[1][path]
		if was && is && old == now {
			continue
		}
		d := fileDelta{path, -1, -1}
		if was {
			d.FromBytes = old.bytes
		}
		if is {
			d.ToBytes = now.bytes
		}
		deltas = append(deltas, d)
	}
	return deltas, nil
}

// readTree reads the files of a version's artifact on their way here.
func readTree(s *session, id wire.VersionID) (map[string]content, error) {
	out, in := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := s.client.Code(s.ctx, id, in)
		in.CloseWithError(err)
		fetched <- err
	}()
	tree, err := treeOf(out)
	_ = out.CloseWithError(cmp.Or(err, io.EOF)) // ends the fetch where something is left
	if failed := <-fetched; err != nil {
		if _, told := errors.AsType[*wire.Error](failed); told {
			return nil, failed
		}
		return nil, fmt.Errorf("read the artifact of %s: %w", id, err)
	}
	return tree, nil
}

// treeOf reads a gzip-compressed tar; a link counts as its target.
func treeOf(r io.Reader) (map[string]content, error) {
	packed, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	tree := map[string]content{}
	for entries := tar.NewReader(packed); ; {
		header, err := entries.Next()
		switch {
		case errors.Is(err, io.EOF):
			return tree, nil
		case err != nil:
			return nil, err
		case header.Typeflag == tar.TypeDir:
			continue
		case len(tree) >= wire.MaxBundleFiles:
			return nil, fmt.Errorf("it has more than %d files", wire.MaxBundleFiles)
		}
		sum := sha256.New()
		_, _ = io.WriteString(sum, strconv.FormatInt(header.Mode, 8)+header.Linkname+"\n") // never fails
		n, err := io.Copy(sum, io.LimitReader(entries, wire.MaxBundleUnpacked))
		if err != nil {
			return nil, err
		}
		tree[header.Name] = content{bytes: n, digest: [sha256.Size]byte(sum.Sum(nil))}
	}
}

func (s *session) printDiff(id wire.FunctionID, d versionDiff) error {
	if len(d.Manifest)+len(d.Files) == 0 && d.Image == nil {
		_, err := fmt.Fprintf(s.out, "versions %d and %d of %s are the same\n", d.From, d.To, id)
		return err
	}
	rows := [][]string{{"", "WHAT", "VERSION " + strconv.Itoa(d.From), "VERSION " + strconv.Itoa(d.To)}}
	for _, m := range d.Manifest {
		rows = append(rows, []string{sign(m.From != nil, m.To != nil), m.Key, jsonText(m.From), jsonText(m.To)})
	}
	for _, f := range d.Files {
		rows = append(rows, []string{sign(f.FromBytes >= 0, f.ToBytes >= 0), f.Path, sizeText(f.FromBytes), sizeText(f.ToBytes)})
	}
	if d.Image != nil {
		rows = append(rows, []string{"~", "image", fmt.Sprintf("%.12s", string(d.Image.From)), fmt.Sprintf("%.12s", string(d.Image.To))})
	}
	return writeTable(s.out, rows)
}

// sign says whether something was removed, added or changed.
func sign(was, is bool) string {
	switch {
	case !was:
		return "+"
	case !is:
		return "-"
	}
	return "~"
}

func jsonText(v any) string {
	if v == nil {
		return "-"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

func sizeText(bytes int64) string {
	if bytes < 0 {
		return "-"
	}
	return strconv.FormatInt(bytes, 10) + " B"
}
