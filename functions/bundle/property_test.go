package bundle

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawTree makes up a folder with files, executables and links that stay inside.
func drawTree(t *rapid.T) tree {
	part := rapid.SampledFrom([]string{"a", "b", "a-b", "A", "ü", "x.py", "node_modules", "deep"})
	content, folders := tree{}, map[string]bool{".": true}
	var names []string
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		name := path.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "name")...)
		if folders[name] || !addFolders(folders, content, path.Dir(name)) {
			continue
		}
		if _, exists := content[name]; exists {
			continue
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			content[name] = "#!" + rapid.StringN(0, 20, -1).Draw(t, "script")
		case 1:
			to := rapid.SampledFrom(append(names, "nowhere")).Draw(t, "to")
			target, err := filepath.Rel(path.Dir(name), to)
			must(t, err)
			content[name] = "-> " + target
		default:
			content[name] = string(rapid.SliceOfN(rapid.Byte(), 3, 3000).Draw(t, "bytes"))
		}
		if _, isLink := cutLink(content[name]); !isLink {
			names = append(names, name)
		}
	}
	return content
}

// addFolders notes the folders above a name, unless a file stands in the way.
func addFolders(folders map[string]bool, content tree, folder string) bool {
	for at := folder; at != "."; at = path.Dir(at) {
		if _, taken := content[at]; taken {
			return false
		}
	}
	for at := folder; at != "."; at = path.Dir(at) {
		folders[at] = true
	}
	return true
}

func TestPackIsReproducible(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		content := drawTree(t)
		first, firstSummary := pack(t, plant(t, mkdir(t, base), content))

		// The same content, made in another order by other people at another time.
		second, secondSummary := pack(t, plantOtherwise(t, mkdir(t, base), content))
		if !bytes.Equal(first, second) || firstSummary != secondSummary {
			t.Fatalf("other order, time, owner, umask: other bytes")
		}

		// There and back again, under a hostile umask.
		dst := mkdir(t, base)
		underUmask(0o777, func() {
			summary, err := Unpack(bytes.NewReader(first), dst, DefaultLimits())
			must(t, err)
			if summary != firstSummary {
				t.Fatalf("packed %+v, unpacked %+v", firstSummary, summary)
			}
		})
		if diff := cmp.Diff(content, harvest(t, dst)); diff != "" {
			t.Fatalf("content changed: %s", diff)
		}
		if again, _ := pack(t, dst); !bytes.Equal(first, again) {
			t.Fatalf("packed again: other bytes")
		}
	})
}

func TestPackSeesEveryChange(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		content := drawTree(t)
		before, _ := pack(t, plant(t, mkdir(t, base), content))
		content["changed"] = "x"
		after, _ := pack(t, plant(t, mkdir(t, base), content))
		if bytes.Equal(before, after) {
			t.Fatalf("one file more, the same bytes")
		}
	})
}

func mkdir(t testingT, base string) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "")
	must(t, err)
	return dir
}

// plantOtherwise plants in another order, with other times, owners and modes.
func plantOtherwise(t *rapid.T, dir string, content tree) string {
	names := []string{}
	for name := range content {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range rapid.Permutation(names).Draw(t, "order") {
		underUmask(0o077, func() { plant(t, dir, tree{name: content[name]}) })
		full := filepath.Join(dir, name)
		if os.Getuid() == 0 {
			must(t, os.Lchown(full, 1000, 1000))
		}
		if _, isLink := cutLink(content[name]); !isLink {
			at := time.Unix(rapid.Int64Range(0, 1<<31).Draw(t, "time"), 0)
			must(t, os.Chtimes(full, at, at))
		}
	}
	return dir
}

func underUmask(mask int, do func()) {
	old := syscall.Umask(mask)
	defer syscall.Umask(old)
	do()
}
