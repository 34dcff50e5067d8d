package builder

import "strings"

// maxLog bounds what is kept of a build's output, in bytes.
const maxLog = 64 << 10

// clip keeps the beginning and the end of a text, as a tool that fails says why at its
// end. It is for one goroutine.
type clip struct {
	head, tail []byte
	cut        bool
}

const clipHalf = maxLog / 2

// Write never fails.
func (c *clip) Write(p []byte) (int, error) {
	n := len(p)
	room := min(len(p), clipHalf-len(c.head))
	c.head = append(c.head, p[:room]...)
	c.tail = append(c.tail, p[room:]...)
	if over := len(c.tail) - clipHalf; over > 0 {
		c.tail, c.cut = append(c.tail[:0], c.tail[over:]...), true
	}
	return n, nil
}

// String is the text, with a mark where something was left out.
func (c *clip) String() string {
	if !c.cut {
		return tidy(string(c.head) + string(c.tail))
	}
	return tidy(string(c.head)) + "\n[dayfly: a part of the build log was left out]\n" + tidy(string(c.tail))
}

// tidy makes text that may be passed on of what a build printed.
func tidy(out string) string { return strings.ToValidUTF8(out, "\uFFFD") }
