package invoker

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

// tag marks a line as an invocation's.
func tag(id wire.InvocationID, line string) string { return "\x1e" + string(id) + "\x1f" + line }

// feed makes a pipe of which several invocations print; text is given to it directly.
func feed(t *testing.T) (p *logPipe, r *recorder) {
	t.Helper()
	r = newRecorder()
	p, err := newLogPipe(filepath.Join(t.TempDir(), "log"), r.emit)
	must(t, err)
	p.adopt(r.emit, true)
	t.Cleanup(p.close)
	return p, r
}

func (p *logPipe) given(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.take([]byte(text))
}

func wantLog(t *testing.T, r *recorder, id wire.InvocationID, want string, wantEnds int) {
	t.Helper()
	if got, ends := r.of(id); got != want || ends != wantEnds {
		t.Errorf("%q printed %q and ended %d times; want %q, %d", id, got, ends, want, wantEnds)
	}
}

func TestLinesOfSeveralAreToldApart(t *testing.T) {
	p, r := feed(t)
	p.given("loading\n")
	p.begin("a")
	p.given("alone\n")
	p.begin("b")
	p.given(tag("b", "first\n") + tag("a", "second\n") + "unmarked\n" + tag("b", "third\n"))
	p.given(tag("zzz", "of nobody\n") + "\x1eno tag\n")
	if tail := p.end("a"); tail != "alone\nsecond\n" {
		t.Errorf("tail %q", tail)
	}
	p.given("alone again\n" + tag("a", "late\n"))
	p.end("b")
	p.given("afterwards\n")
	p.close()
	wantLog(t, r, "a", "alone\nsecond\n", 1)
	wantLog(t, r, "b", "first\nthird\nalone again\nafterwards\n", 1)
	wantLog(t, r, "", "loading\nunmarked\nof nobody\n\x1eno tag\nlate\n", 0)
}

// TestLineWithoutItsEnd: the beginning of a line is its owner's, whoever comes or goes
// before the rest.
func TestLineWithoutItsEnd(t *testing.T) {
	p, r := feed(t)
	p.begin("a")
	p.given("half")
	p.begin("b")
	p.given(" a line\n" + tag("a", "no end"))
	if tail := p.end("a"); tail != "half a line\nno end" {
		t.Errorf("tail %q", tail)
	}
	p.given(" but late\n" + tag("b", "whole\n"))
	p.end("b")
	p.close()
	wantLog(t, r, "a", "half a line\nno end", 1)
	wantLog(t, r, "b", "whole\n", 1)
	wantLog(t, r, "", " but late\n", 0)
}

func TestLongLineOfOneOfSeveral(t *testing.T) {
	p, r := feed(t)
	p.begin("a")
	p.begin("b")
	line := strings.Repeat("x", 3*wire.MaxLogLine)
	for text := tag("a", line) + "\n" + tag("b", "short\n"); text != ""; text = text[min(len(text), 1000):] {
		p.given(text[:min(len(text), 1000)])
	}
	p.end("a")
	p.end("b")
	wantLog(t, r, "a", line+"\n", 1)
	wantLog(t, r, "b", "short\n", 1)
}

// TestBoundsAreOfEach: what one prints too much is not the other's loss.
func TestBoundsAreOfEach(t *testing.T) {
	p, r := feed(t)
	p.begin("a")
	p.begin("b")
	for range wire.MaxInvocationLog/1000 + 100 {
		p.given(tag("a", strings.Repeat("y", 999)+"\n"))
	}
	p.given(tag("b", "fine\n") + "unmarked\n")
	p.end("a")
	p.end("b")
	p.close()
	wantLog(t, r, "b", "fine\n", 1)
	wantLog(t, r, "", "unmarked\n", 0)
	if text, ends := r.of("a"); len(text) > wire.MaxInvocationLog+200 || ends != 1 {
		t.Errorf("%d bytes, %d ends", len(text), ends)
	}
}

// TestTaggedLinesInAnyPieces: however the pipe is read, each line comes whole to its
// invocation, in order.
func TestTaggedLinesInAnyPieces(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, r := feed(t)
		ids := []wire.InvocationID{"i-1", "i-2", "i-3"}
		want := map[wire.InvocationID]string{}
		var text strings.Builder
		for n := range rapid.IntRange(0, 30).Draw(rt, "lines") {
			id := rapid.SampledFrom(append(ids, "")).Draw(rt, "id")
			line := fmt.Sprintf("%d %s\n", n, rapid.StringMatching(`[a-z\x1e\x1f]{0,20}`).Draw(rt, "text"))
			want[id] += line
			if id != "" {
				line = tag(id, line)
			}
			text.WriteString(line)
		}
		for _, id := range ids {
			p.begin(id)
		}
		for rest := text.String(); rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "piece")
			p.given(rest[:n])
			rest = rest[n:]
		}
		for _, id := range ids {
			if tail := p.end(id); tail != want[id] {
				rt.Fatalf("tail of %s: %q, want %q", id, tail, want[id])
			}
		}
		p.close()
		for id, text := range want {
			if got, _ := r.of(id); got != text {
				rt.Fatalf("%q: %q, want %q", id, got, text)
			}
		}
	})
}
