package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// topEvery is how often top looks again. Idle nodes speak twice in that time.
const topEvery = time.Second

func topCommand() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch what runs: functions and nodes, live",
		Long: `Top shows every second what runs: calls a second and mean run time of each version,
its instances on all nodes, and what the nodes hold. Nodes count themselves, so calls
of all gateways and events are in it. Press q to leave.

Without a terminal it measures for one second and prints once.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if s.json || !animated(s.out) || !interactive(s.in) {
				return s.topOnce()
			}
			return s.topScreen()
		},
	}
	flags.register(cmd)
	return cmd
}

// sample is what the nodes said at a moment.
type sample struct {
	at    time.Time
	nodes []client.Node
}

func (s *session) sample() (sample, error) {
	nodes, err := s.client.Nodes(s.ctx)
	return sample{time.Now(), nodes}, err
}

// activity is one version on all nodes.
type activity struct {
	Version  string  `json:"version"`
	Calls    float64 `json:"callsPerSecond"`
	Errors   float64 `json:"errorsPerSecond"`
	Cold     float64 `json:"coldPerSecond"`
	RunMean  float64 `json:"meanRunMicros"`
	Busy     int     `json:"busy"`
	Idle     int     `json:"idle"`
	Starting int     `json:"starting"`
	Kept     int     `json:"kept"`

	calls, runMicros float64
}

// nodeCalls are the calls a second that end on a node.
type nodeCalls map[wire.NodeID]float64

// measure compares two samples. What a node did not tell of before began at zero; a
// node that was not there before, or was started again, has no rates yet.
func measure(before, now sample) ([]activity, nodeCalls) {
	seconds := max(now.at.Sub(before.at).Seconds(), 0.001)
	runs := map[wire.NodeID]string{}
	counted := map[wire.NodeID]map[wire.VersionID]wire.Ran{}
	for _, n := range before.nodes {
		runs[n.Node], counted[n.Node] = n.Run, map[wire.VersionID]wire.Ran{}
		for _, ran := range n.Ran {
			counted[n.Node][ran.Version] = ran
		}
	}
	versions, calls := map[wire.VersionID]*activity{}, nodeCalls{}
	of := func(v wire.VersionID) *activity {
		if versions[v] == nil {
			versions[v] = &activity{Version: v.String()}
		}
		return versions[v]
	}
	for _, n := range now.nodes {
		for _, v := range n.Versions {
			a := of(v.Version)
			a.Busy, a.Idle, a.Starting, a.Kept = a.Busy+v.Busy, a.Idle+v.Idle, a.Starting+v.Starting, a.Kept+v.Kept
		}
		if runs[n.Node] != n.Run {
			continue
		}
		for _, ran := range n.Ran {
			last := counted[n.Node][ran.Version]
			if last.Calls > ran.Calls { // forgotten meanwhile
				last = wire.Ran{}
			}
			a, ended := of(ran.Version), float64(ran.Calls-last.Calls)
			a.calls += ended
			a.runMicros += float64(ran.RunMicros - last.RunMicros)
			a.Errors += float64(ran.Errors-last.Errors) / seconds
			a.Cold += float64(ran.Cold-last.Cold) / seconds
			calls[n.Node] += ended / seconds
		}
	}
	list := make([]activity, 0, len(versions))
	for _, a := range versions {
		a.Calls = a.calls / seconds
		if a.calls > 0 {
			a.RunMean = a.runMicros / a.calls
		}
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, b activity) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(b.Busy, a.Busy), cmp.Compare(a.Version, b.Version))
	})
	return list, calls
}

// topOnce measures for a while and prints.
func (s *session) topOnce() error {
	before, err := s.sample()
	if err != nil {
		return err
	}
	if err := s.wait(topEvery); err != nil {
		return err
	}
	now, err := s.sample()
	if err != nil {
		return err
	}
	list, calls := measure(before, now)
	if s.json {
		return s.printJSON(map[string]any{"versions": list, "nodes": append([]client.Node{}, now.nodes...)})
	}
	return writeTop(s.out, list, calls, now)
}

// wait returns the context's error when it ends first.
func (s *session) wait(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// writeTop writes both tables.
func writeTop(w io.Writer, list []activity, calls nodeCalls, now sample) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	row("NODE", "STATE", "CALLS/S", "INSTANCES", "STEMS", "MEMORY", "CPU", "LOAD", "SEEN")
	for _, n := range now.nodes {
		stems := 0
		for _, count := range n.Stems {
			stems += count
		}
		row(string(n.Node), nodeState(n), rate(calls[n.Node]), fmt.Sprintf("%d/%d", n.Reserved.Instances, n.Capacity.Instances), strconv.Itoa(stems),
			humanBytes(n.Reserved.MemoryBytes)+"/"+humanBytes(n.Capacity.MemoryBytes), cores(n.Reserved.CPUMillis)+"/"+cores(n.Capacity.CPUMillis),
			strconv.FormatFloat(n.Load, 'f', 2, 64), humanAge(n.LastSeen, now.at))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "\nNo function has an instance.")
		return err
	}
	fmt.Fprintln(t)
	row("FUNCTION", "CALLS/S", "ERRORS/S", "COLD/S", "MEAN RUN", "BUSY", "WARM", "STARTING", "KEPT")
	for _, a := range list {
		mean := "-"
		if a.calls > 0 {
			mean = humanDuration(time.Duration(a.RunMean) * time.Microsecond)
		}
		row(a.Version, rate(a.Calls), rate(a.Errors), rate(a.Cold), mean,
			strconv.Itoa(a.Busy), strconv.Itoa(a.Idle), strconv.Itoa(a.Starting), strconv.Itoa(a.Kept))
	}
	return t.Flush()
}

// rate writes a number of things a second; nothing is a dash.
func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "-"
	case perSecond < 10:
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	}
	return strconv.FormatFloat(perSecond, 'f', 0, 64)
}

// Escape sequences of a screen that is drawn again and again, and gone afterwards.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	clearScreen = "\x1b[H\x1b[J"
)

// topScreen draws until q is pressed or the context ends.
func (s *session) topScreen() error {
	keyboard, ok := s.in.(*os.File)
	if !ok {
		return errors.New("the keyboard is no file")
	}
	before, err := s.sample()
	if err != nil {
		return err
	}
	cooked, err := term.MakeRaw(int(keyboard.Fd()))
	if err != nil {
		return fmt.Errorf("take over the terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(keyboard.Fd()), cooked) }()
	fmt.Fprint(s.out, enterScreen)
	defer fmt.Fprint(s.out, leaveScreen)
	quit := make(chan struct{})
	go awaitQuit(keyboard, quit) // ends with the process at the latest: nothing wakes a read of a terminal
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	now, problem := before, error(nil)
	for {
		s.draw(before, now, problem)
		select {
		case <-quit:
			return nil
		case <-s.ctx.Done():
			return nil
		case <-tick.C:
		}
		// A server that is away for a while is no reason to leave.
		next, err := s.sample()
		if problem = err; err == nil {
			before, now = now, next
		}
	}
}

// awaitQuit reads keys until one says to leave: q, Ctrl-C, Ctrl-D or Escape.
func awaitQuit(keyboard io.Reader, quit chan<- struct{}) {
	defer close(quit)
	key := make([]byte, 1)
	for {
		if _, err := keyboard.Read(key); err != nil || strings.Contains("qQ\x03\x04\x1b", string(key)) {
			return
		}
	}
}

// draw shows as much as the screen takes.
func (s *session) draw(before, now sample, problem error) {
	var text strings.Builder
	title := fmt.Sprintf("Dayfly at %s  %s  q leaves", s.client.URL(), now.at.Format(time.TimeOnly))
	if problem != nil {
		title = paint(s.out, red, "error: ") + strings.ReplaceAll(problem.Error(), "\n", " ")
	}
	fmt.Fprintln(&text, title+"\n")
	list, calls := measure(before, now)
	_ = writeTop(&text, list, calls, now) // a builder takes everything
	width, height := 80, 24
	if screen, ok := s.out.(interface{ Fd() uintptr }); ok {
		if w, h, err := term.GetSize(int(screen.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	fmt.Fprint(s.out, clearScreen+fitted(text.String(), width, height))
}

// fitted cuts a text to a screen, whose lines a raw terminal wants ended by both signs.
func fitted(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-1)]
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width && !strings.Contains(line, "\x1b") {
			lines[i] = string(runes[:width])
		}
	}
	return strings.Join(lines, "\r\n")
}
