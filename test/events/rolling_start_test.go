package events_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

// rolling is a platform with two of each role, under load.
type rolling struct {
	*platform
	balancer *balancer
	api      *client.Client
	listens  map[string][]string // where processes are asked whether they are ready, by role

	stop    context.CancelFunc
	loading sync.WaitGroup

	calls atomic.Int64
	// kept and cold count the calls of the instance that is kept, and those of them that
	// waited for an instance.
	kept, cold atomic.Int64
	// What follows is of one goroutine each until that has ended.
	events   []sent
	deployed []int // versions
	again    int   // deploys that were tried anew
}

func startRolling(t *testing.T) *rolling {
	t.Helper()
	r := &rolling{platform: newPlatform(t), listens: map[string][]string{}}
	r.startServers()
	r.connect()
	for _, role := range []string{"scheduler", "gateway", "events", "builder"} {
		for i := range 2 {
			address := freeAddress(t)
			r.listens[role] = append(r.listens[role], address)
			switch role {
			case "gateway":
				r.role(role, address, "--lame-duck", lameDuck.String())
			case "builder": // no bundle of this test needs a container
				r.role(role, address, "--sandbox", "oci", "--data", filepath.Join(r.dir, fmt.Sprintf("builder-%d", i)))
			default:
				r.role(role, address)
			}
		}
	}
	for i := range 2 {
		r.child(childNode, fmt.Sprintf("node-%d", i), "")
	}
	r.balancer = &balancer{hosts: r.listens["gateway"], transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	var probing sync.WaitGroup
	probing.Go(func() { r.balancer.probe(ctx) })
	t.Cleanup(func() {
		cancel()
		r.loading.Wait()
		probing.Wait()
		r.balancer.transport.CloseIdleConnections()
	})
	r.url = "http://dayfly"
	r.http = &http.Client{Timeout: time.Minute, Transport: r.balancer}
	var err error
	r.api, err = client.New(r.url, client.WithHTTPClient(r.http))
	must(t, err)
	for _, role := range []string{"scheduler", "events", "builder"} {
		for i := range r.listens[role] {
			r.awaitReady(role, i)
		}
	}
	within(t, startBound, "both gateways are ready", func() error {
		r.balancer.mu.Lock()
		defer r.balancer.mu.Unlock()
		if len(r.balancer.ready) < 2 {
			return errors.New("they are not")
		}
		return nil
	})
	return r
}

// startServers starts NATS and S3 as they are released, each on an address that nobody else
// uses, so that its ports are free whenever it starts again.
func (r *rolling) startServers() {
	r.t.Helper()
	host := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))
	atNATS, atS3 := host+"1:", host+"2:"
	r.at = sites{NATS: "nats://" + atNATS + "4222", S3: "http://" + atS3 + "9000", AccessKey: accessKey, SecretKey: secretKey}
	r.server(childNATS, atNATS+"8080", "--listen", atNATS+"4222")
	r.server(childS3, atS3+"8080", "--listen", atS3+"9000")
	r.awaitReady(childNATS, 0)
	r.awaitReady(childS3, 0)
}

// server starts NATS or S3.
func (r *rolling) server(role, health string, flags ...string) {
	name := fmt.Sprintf("%s-%d", role, len(r.processes[role]))
	r.listens[role] = append(r.listens[role], health)
	r.add(role, name, func() *exec.Cmd {
		cmd := exec.Command(binary, append([]string{role, "--http", health, "--data", filepath.Join(r.dir, name)}, flags...)...)
		cmd.Env = append(os.Environ(), "DAYFLY_S3_ACCESS_KEY="+accessKey, "DAYFLY_S3_SECRET_KEY="+secretKey)
		return cmd
	})
}

func (r *rolling) awaitReady(role string, i int) {
	r.t.Helper()
	within(r.t, startBound, fmt.Sprintf("%s %d is ready", role, i), func() error {
		if !isReady(r.t.Context(), http.DefaultClient, r.listens[role][i]) {
			return errors.New("it is not")
		}
		return nil
	})
}

// fresh deploys a function, whose every version differs. On a busy machine a deploy may end
// for what did not answer in time, if it says so.
func (r *rolling) fresh(n int) {
	var d client.Deployment
	var err error
	for range deployTries {
		var bundle *bytes.Reader
		if bundle, err = bundleOf("fresh", n); err == nil {
			d, err = r.api.Deploy(r.t.Context(), "", bundle)
		}
		if !wire.HasCode(err, wire.CodeUnavailable) {
			break
		}
		r.again++
	}
	if err != nil || !d.Live {
		r.t.Errorf("deploy %d: live is %t: %s: %v", n, d.Live, d.Note, err)
		return
	}
	r.deployed = append(r.deployed, d.Version.Number)
}

// checkDeployed fails unless every version is there whose deploy was answered.
func (r *rolling) checkDeployed() {
	r.t.Helper()
	listed, err := r.api.Versions(r.t.Context(), wire.FunctionID{Namespace: wire.DefaultNamespace, Name: "fresh"})
	must(r.t, err)
	known := map[int]bool{}
	for _, v := range listed {
		known[v.Number] = true
	}
	for i, n := range r.deployed {
		if !known[n] || i > 0 && n <= r.deployed[i-1] {
			r.t.Errorf("version %d was deployed after %v; there are %v", n, r.deployed[:i], known)
		}
	}
	if len(r.deployed) == 0 {
		r.t.Error("nothing was deployed")
	}
}

// bundleOf packs a function of one file.
func bundleOf(name string, n int) (*bytes.Reader, error) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for _, file := range [][2]string{
		{functions.ManifestName, "name: " + name + "\nruntime: python\nhandler: app.handler\n"},
		{"app.py", fmt.Sprintf("def handler(event, context):\n    return %d\n", n)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: file[0], Mode: 0o644, Size: int64(len(file[1]))}); err != nil {
			return nil, err
		}
		if _, err := archive.Write([]byte(file[1])); err != nil {
			return nil, err
		}
	}
	err := errors.Join(archive.Close(), zipped.Close())
	return bytes.NewReader(packed.Bytes()), err
}
