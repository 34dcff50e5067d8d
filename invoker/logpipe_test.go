package invoker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly-run/dayfly/wire"
)

// patience is for what happens, on a machine that has much else to do.
const patience = 3 * time.Minute

// piece is one call of emit.
type piece struct {
	id   wire.InvocationID
	text string
	last bool
}

// recorder keeps what was emitted.
type recorder struct {
	mu     sync.Mutex
	pieces []piece
	more   chan struct{} // has room for one
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1)} }

func (r *recorder) emit(id wire.InvocationID, text string, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pieces = append(r.pieces, piece{id, text, last})
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// of returns all that was emitted of one invocation, and how many ends.
func (r *recorder) of(id wire.InvocationID) (text string, ends int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pieces {
		if p.id != id {
			continue
		}
		text += p.text
		if p.last {
			ends++
		}
	}
	return text, ends
}

// await waits until the text of an invocation is as long as wanted.
func (r *recorder) await(t *testing.T, id wire.InvocationID, n int) string {
	t.Helper()
	over := time.After(patience)
	for {
		text, _ := r.of(id)
		if len(text) >= n {
			return text
		}
		select {
		case <-r.more:
		case <-over:
			t.Fatalf("%d bytes were emitted, want %d", len(text), n)
		}
	}
}

// openPipe makes a pipe with a writer, as a function has it.
func openPipe(t *testing.T, first wire.InvocationID) (*logPipe, *os.File, *recorder) {
	t.Helper()
	running := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, running) })
	path := filepath.Join(t.TempDir(), "log")
	r := newRecorder()
	p, err := newLogPipe(path, r.emit)
	must(t, err)
	p.begin(first)
	must(t, p.start())
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	t.Cleanup(func() { _ = writer.Close() })
	return p, writer, r
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	_, err := f.WriteString(text)
	must(t, err)
}

func TestLogBelongsToWhoPrintedIt(t *testing.T) {
	const rounds = 500
	p, w, r := openPipe(t, "i-0")
	want := map[wire.InvocationID]string{}
	write(t, w, "starting\n")
	want["i-0"] = "starting\n"
	for n := range rounds {
		id := wire.InvocationID(fmt.Sprint("i-", n))
		p.begin(id)
		text := strings.Repeat(fmt.Sprintf("line of %s\n", id), n%7)
		if n%3 == 0 {
			text += "no newline at the end"
		}
		write(t, w, text)
		if tail := p.end(id); !strings.HasSuffix(tail, text) {
			t.Fatalf("tail of %s: %q", id, tail)
		}
		want[id] += text
		if n%5 == 0 {
			write(t, w, "afterwards\n") // a thread that goes on
			want[id] += "afterwards\n"
		}
	}
	p.close()
	for id, text := range want {
		got, ends := r.of(id)
		if got != text {
			t.Errorf("%s: %q, want %q", id, got, text)
		}
		if ends > 1 {
			t.Errorf("%s ended %d times", id, ends)
		}
		if text == "" && ends != 0 {
			t.Errorf("%s printed nothing, and yet ended", id)
		}
	}
}

func TestEndTwiceIsOneEnd(t *testing.T) {
	p, w, r := openPipe(t, "a")
	write(t, w, "x\n")
	if first, second := p.end("a"), p.end("a"); first != "x\n" || second != first {
		t.Errorf("tails %q and %q", first, second)
	}
	p.close()
	if _, ends := r.of("a"); ends != 1 {
		t.Errorf("%d ends", ends)
	}
}

// The same event may come again to the same instance, and is an invocation again.
func TestSameInvocationAgain(t *testing.T) {
	p, w, r := openPipe(t, "a")
	for range 2 {
		p.begin("a")
		write(t, w, "x\n")
		p.end("a")
	}
	p.close()
	if text, ends := r.of("a"); text != "x\nx\n" || ends != 2 {
		t.Errorf("%q, %d ends", text, ends)
	}
}

func TestLinesArriveWithoutAnEnd(t *testing.T) {
	p, w, r := openPipe(t, "a")
	write(t, w, "one\ntwo\nthr")
	if text := r.await(t, "a", 8); text != "one\ntwo\n" {
		t.Errorf("emitted %q; a line waits for its end", text)
	}
	write(t, w, "ee\n")
	if text := r.await(t, "a", 14); text != "one\ntwo\nthree\n" {
		t.Errorf("emitted %q", text)
	}
	p.close()
}

func TestLongLineIsSentInPieces(t *testing.T) {
	p, w, r := openPipe(t, "a")
	line := strings.Repeat("x", 10*wire.MaxLogLine) + "\n"
	write(t, w, line)
	p.end("a")
	p.close()
	if text, _ := r.of("a"); text != line {
		t.Errorf("%d bytes, want %d", len(text), len(line))
	}
	for _, piece := range r.pieces {
		if len(piece.text) > wire.MaxLogLine+logChunk {
			t.Errorf("a piece of %d bytes", len(piece.text))
		}
	}
}

func TestLogOfOneInvocationIsBounded(t *testing.T) {
	const notice = "the log of one invocation ends at"
	p, w, r := openPipe(t, "a")
	for _, id := range []wire.InvocationID{"a", "b"} {
		p.begin(id)
		for range wire.MaxInvocationLog/1000 + 200 {
			write(t, w, strings.Repeat("y", 999)+"\n")
		}
		write(t, w, "the end\n")
		if tail := p.end(id); !strings.HasSuffix(tail, "the end\n") || len(tail) != wire.LogTail {
			t.Errorf("tail of %d bytes does not have the end", len(tail))
		}
		text, ends := r.of(id)
		if len(text) > wire.MaxInvocationLog+200 || len(text) < wire.MaxInvocationLog || ends != 1 {
			t.Errorf("%s: %d bytes, %d ends", id, len(text), ends)
		}
		if n := strings.Count(text, notice); n != 1 {
			t.Errorf("%s says %d times that it is cut", id, n)
		}
	}
	p.close()
}

// A function that never stops printing holds up neither its own answer nor the
// removal of its instance.
func TestFloodHoldsNothingUp(t *testing.T) {
	p, w, _ := openPipe(t, "a")
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			block := []byte(strings.Repeat("flood\n", 4<<10))
			for {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 20 {
			id := wire.InvocationID(fmt.Sprint(n))
			p.begin(id)
			p.end(id)
		}
		p.close()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("the flood holds the pipe up")
	}
	must(t, w.Close())
	writers.Wait()
}

func TestWriterThatStaysOpen(t *testing.T) {
	p, w, r := openPipe(t, "a")
	write(t, w, "before\n")
	p.close()
	if text, ends := r.of("a"); text != "before\n" || ends != 1 {
		t.Errorf("%q, %d ends", text, ends)
	}
	if _, err := w.WriteString("after\n"); err == nil {
		t.Error("somebody still reads")
	}
	if tail := p.end("a"); tail != "before\n" {
		t.Errorf("tail %q", tail)
	}
}

func TestPipeThatWasNeverOpened(t *testing.T) {
	r := newRecorder()
	p, err := newLogPipe(filepath.Join(t.TempDir(), "log"), r.emit)
	must(t, err)
	if tail := p.end(""); tail != "" {
		t.Errorf("tail %q", tail)
	}
	p.close()
	if len(r.pieces) != 0 {
		t.Errorf("emitted %v", r.pieces)
	}
}

func TestLogIsNotText(t *testing.T) {
	p, w, r := openPipe(t, "a")
	want := "\xff\x00\xc3\n"
	write(t, w, want)
	if tail := p.end("a"); tail != want {
		t.Errorf("tail %q", tail)
	}
	p.close()
	if text, _ := r.of("a"); text != want {
		t.Errorf("%q", text)
	}
}

func TestPipesLeaveNoDescriptors(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := count()
	for range 50 {
		p, err := newLogPipe(filepath.Join(t.TempDir(), "log"), newRecorder().emit)
		must(t, err)
		must(t, p.start())
		p.close()
	}
	if after := count(); after > before+25 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
