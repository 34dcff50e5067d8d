package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// bundleServer takes bundles in parts of partBytes.
type bundleServer struct {
	*client.Client
	partBytes int64
	// fault, when it is set, may answer in the server's place, and says so.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	parts    map[int][]byte
	whole    []byte
	puts     int
	told     []int    // the parts that it said it has, the last time
	deployed []string // queries
}

func newBundleServer(t *testing.T, partBytes int64) *bundleServer {
	s := &bundleServer{partBytes: partBytes, parts: map[int][]byte{}}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /v1/bundles/{digest}", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.whole == nil && len(s.parts) == 0 {
			writeProblem(w, wire.Errorf(wire.CodeNotFound, "nothing"), "")
			return
		}
		numbers := []int{}
		for n := range s.parts {
			numbers = append(numbers, n)
		}
		s.told = numbers
		reply(w, map[string]any{"bytes": 0, "partBytes": s.partBytes, "parts": numbers, "complete": s.whole != nil})
	})
	mux.HandleFunc("PUT /v1/bundles/{digest}/parts/{n}", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var n int
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		s.mu.Lock()
		defer s.mu.Unlock()
		if slices.Contains(s.told, n) {
			t.Errorf("part %d is sent again", n)
		}
		s.parts[n] = data
		s.puts++
		reply(w, map[string]int{"part": n})
	})
	mux.HandleFunc("POST /v1/bundles/{digest}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var whole []byte
		for n := 1; n <= len(s.parts); n++ {
			whole = append(whole, s.parts[n]...)
		}
		var asked struct{ Bytes int }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Bytes != len(whole) || digestOf(whole) != r.PathValue("digest") {
			t.Errorf("%d bytes of digest %s, asked for %+v of %s", len(whole), digestOf(whole), asked, r.PathValue("digest"))
		}
		s.whole = whole
		reply(w, map[string]any{"complete": true})
	})
	mux.HandleFunc("POST /v1/functions", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.deployed = append(s.deployed, r.URL.RawQuery)
		if r.ContentLength != 0 || r.Header.Get("Expect") != "" {
			t.Errorf("a deploy of an uploaded bundle has %d bytes, Expect %q", r.ContentLength, r.Header.Get("Expect"))
		}
		reply(w, map[string]any{"live": true})
	})
	s.Client = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if s.fault == nil || !s.fault(w, r) {
			mux.ServeHTTP(w, r)
		}
	})
	return s
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func randomBytes(n int) []byte {
	data := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	return data
}

func TestLargeBundlesGoInParts(t *testing.T) {
	content := randomBytes(wire.BundlePart*2 + 12345)
	s := newBundleServer(t, wire.BundlePart)
	var seen []int64
	d, err := s.Deploy(t.Context(), "team-a", bytes.NewReader(content),
		client.WithoutLive(), client.WithVendored(), client.WithProgress(func(done, total int64) {
			if total != int64(len(content)) || done > total {
				t.Errorf("%d of %d", done, total)
			}
			seen = append(seen, done)
		}))
	if err != nil || !d.Live {
		t.Fatalf("%+v, %v", d, err)
	}
	if !bytes.Equal(s.whole, content) || s.puts != 3 {
		t.Errorf("%d bytes in %d parts", len(s.whole), s.puts)
	}
	if want := "bundle=" + digestOf(content) + "&live=false&namespace=team-a&vendor=true"; !slices.Equal(s.deployed, []string{want}) {
		t.Errorf("deployed %q, want %s", s.deployed, want)
	}
	if len(seen) == 0 || seen[len(seen)-1] != int64(len(content)) {
		t.Errorf("progress %v", seen)
	}
	// Again: nothing is sent, and the progress says that all is there.
	last := int64(0)
	if _, err := s.Deploy(t.Context(), "", bytes.NewReader(content), client.WithProgress(func(done, _ int64) { last = done })); err != nil {
		t.Fatal(err)
	}
	if s.puts != 3 || last != int64(len(content)) {
		t.Errorf("%d parts were sent, %d bytes counted", s.puts, last)
	}
}

// TestUploadsResume: what an interrupted deploy sent is not sent again.
func TestUploadsResume(t *testing.T) {
	content := randomBytes(6 << 20)
	s := newBundleServer(t, 1<<20)
	s.parts[1] = content[:1<<20] // so that the server's own size of parts is known
	ctx, cancel := context.WithCancel(t.Context())
	var interrupted atomic.Bool
	s.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/parts/5") && interrupted.CompareAndSwap(false, true) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
			cancel()                           // as Ctrl-C does
			<-r.Context().Done()
			return true
		}
		return false
	}
	if _, err := s.Deploy(ctx, "", bytes.NewReader(content)); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if _, err := s.Deploy(t.Context(), "", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.whole, content) || len(s.told) == 0 {
		t.Errorf("%d bytes; the server said that it has parts %v", len(s.whole), s.told)
	}
}

// TestPartsAreTriedAgain: a connection that breaks and a server that is busy cost a
// part another try, and no more.
func TestPartsAreTriedAgain(t *testing.T) {
	content := randomBytes(3<<20 + 7)
	s := newBundleServer(t, 1<<20)
	s.parts[1] = content[:1<<20]
	var mu sync.Mutex
	tries := map[string]int{}
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		tries[r.URL.Path]++
		switch {
		case tries[r.URL.Path] > 1:
			return false
		case strings.HasSuffix(r.URL.Path, "/2"):
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		}
		writeProblem(w, wire.Errorf(wire.CodeUnavailable, "S3 is away"), "")
		return true
	}
	last := int64(0)
	if _, err := s.Deploy(t.Context(), "", bytes.NewReader(content), client.WithProgress(func(done, _ int64) { last = done })); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.whole, content) || s.puts != 3 || last != int64(len(content)) {
		t.Errorf("%d bytes, %d parts sent, %d counted", len(s.whole), s.puts, last)
	}
}

// TestPartsThatGoMeanwhile: parts of an old upload may be collected before the rest is
// there; they are sent again.
func TestPartsThatGoMeanwhile(t *testing.T) {
	content := randomBytes(3 << 20)
	s := newBundleServer(t, 1<<20)
	s.parts[1] = content[:1<<20]
	gone := false
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || gone || strings.HasSuffix(r.URL.Path, "/functions") {
			return false
		}
		gone = true
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.parts, 1)
		writeProblem(w, wire.Errorf(wire.CodeConflict, "part 1 is missing"), "")
		return true
	}
	if _, err := s.Deploy(t.Context(), "", bytes.NewReader(content)); err != nil || !bytes.Equal(s.whole, content) || !gone {
		t.Errorf("%d bytes, %v", len(s.whole), err)
	}
}

func TestUploadErrors(t *testing.T) {
	content := randomBytes(2 << 20)
	for name, test := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request) bool
		code  wire.Code
	}{
		"asking fails": {func(w http.ResponseWriter, r *http.Request) bool {
			writeProblem(w, wire.Errorf(wire.CodeUnauthorized, "no"), "")
			return true
		}, wire.CodeUnauthorized},
		"a part is refused": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			writeProblem(w, wire.Errorf(wire.CodeTooLarge, "no"), "")
			return true
		}, wire.CodeTooLarge},
		"the parts are others": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			writeProblem(w, wire.Errorf(wire.CodeInvalid, "no"), "")
			return true
		}, wire.CodeInvalid},
	} {
		s := newBundleServer(t, wire.BundlePart)
		s.fault = test.fault
		if _, err := s.Deploy(t.Context(), "", bytes.NewReader(content)); !wire.HasCode(err, test.code) {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.deployed) > 0 {
			t.Errorf("%s: deployed", name)
		}
	}
}

// TestBuildLogIsFollowed: it comes line by line, and the last line says how it went.
func TestBuildLogIsFollowed(t *testing.T) {
	for name, test := range map[string]struct {
		answer, log, err string
		number           int
	}{
		"built":      {"{\"log\":\"one\\n\"}\n\n{\"log\":\"two\\n\"}\n{\"deployment\":{\"version\":{\"number\":7},\"cached\":true}}\n", "one\ntwo\n", "", 7},
		"failed":     {"{\"log\":\"one\\n\"}\n{\"problem\":{\"code\":\"invalid\",\"detail\":\"no module x\"}}\n", "one\n", "invalid: no module x", 0},
		"broken off": {"{\"log\":\"one\\n\"}\n", "one\n", "without saying what became of the deploy", 0},
		"no JSON":    {"so what\n", "", "not an answer of Dayfly's", 0},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if accept := r.Header.Get("Accept"); accept != "application/x-ndjson" {
				t.Errorf("Accept %q", accept)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, test.answer)
		})
		var log bytes.Buffer
		d, err := c.Deploy(t.Context(), "", strings.NewReader("bundle"), client.WithBuildLog(&log))
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", name, err, test.err)
		}
		if log.String() != test.log || d.Version.Number != test.number || d.Cached != (test.number == 7) {
			t.Errorf("%s: log %q, deployment %+v", name, &log, d)
		}
	}
}
