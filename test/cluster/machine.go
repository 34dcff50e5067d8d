package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// PowerOff does to a process's machine what losing its power does: nothing reaches it or
// comes from it any more, and nothing runs there, functions included. [Host.Mend] and
// [Process.Start] turn it on again.
func (c *Cluster) PowerOff(p *Process) error {
	var others []*Host
	for _, h := range c.lan.hosts {
		if h != p.Host {
			others = append(others, h)
		}
	}
	if err := p.Host.Cut(Both, others...); err != nil {
		return err
	}
	pids, err := p.Host.processes()
	if err != nil {
		return err
	}
	all, err := c.Instances()
	if err != nil {
		return err
	}
	for _, in := range all {
		if in.Node == c.Node(p) {
			pids = append(pids, in.PID)
		}
	}
	var errs []error
	p.Stay()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, p.Kill())...)
}

// processes lists the IDs of what runs on the host itself, not in its containers.
func (h *Host) processes() ([]int, error) {
	own, err := os.Stat("/proc/self/fd/" + strconv.Itoa(int(h.ns.Fd())))
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		other, err := os.Stat(path)
		if err != nil || !os.SameFile(own, other) { // it has ended, or is elsewhere
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// StreamLeader is the NATS server that leads a stream now.
func (c *Cluster) StreamLeader(ctx context.Context, stream string) (*Process, error) {
	nc, err := nats.Connect("", nats.InProcessServer(&anyServer{from: c.Client, to: c.NATS}))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	at := s.CachedInfo().Cluster
	if at == nil {
		return nil, fmt.Errorf("stream %s is not in a cluster", stream)
	}
	i := slices.IndexFunc(c.NATS, func(p *Process) bool { return p.Name == at.Leader })
	if i < 0 {
		return nil, fmt.Errorf("stream %s is led by %q", stream, at.Leader)
	}
	return c.NATS[i], nil
}

// Leader is the scheduler that leads, or nil while none does.
func (c *Cluster) Leader() *Process {
	var leader *Process
	var newest Line
	for _, p := range c.Schedulers {
		if p.PID() == 0 {
			continue
		}
		if line, ever := p.Log.beganToLead(); ever && !line.At.Before(newest.At) {
			leader, newest = p, line
		}
	}
	return leader
}
