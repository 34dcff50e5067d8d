package dayfly

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Local is where a function finds its platform. The zero value means what the
// environment says, as it is in a container; tests say another, see
// [github.com/dayfly-run/dayfly/sdk/go/dayflytest].
type Local struct {
	// Socket is the path of the Runtime API's unix socket.
	Socket string
	// Secrets is the folder with a file for each secret.
	Secrets string
}

const (
	secretsFolder = "/run/secrets"
	// callsAtOnce is how many calls the platform takes of one invocation at once.
	callsAtOnce = 16
	// configWait is a little more than how long the platform holds a question.
	configWait = time.Minute
)

// platform is what a function may ask of its platform besides events.
type platform struct {
	calls, watch *http.Client
	url, secrets string
	config       configWatch
}

type platformKey struct{}

// ofProcess is the platform of code that runs outside of a handler.
var ofProcess = sync.OnceValue(func() *platform { return newPlatform(Local{}) })

// platformOf returns the platform that a handler's context knows, or the process's.
func platformOf(ctx context.Context) *platform {
	if p, ok := ctx.Value(platformKey{}).(*platform); ok {
		return p
	}
	return ofProcess()
}

func newPlatform(l Local) *platform {
	p := &platform{secrets: l.Secrets, url: "http://dayfly"}
	if p.secrets == "" {
		p.secrets = secretsFolder
	}
	network, address := "unix", l.Socket
	if address == "" {
		address = os.Getenv("DAYFLY_RUNTIME_SOCKET")
	}
	if address == "" { // as in a root of the user's own
		network, address = "tcp", os.Getenv("AWS_LAMBDA_RUNTIME_API")
		p.url = "http://" + address
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	p.calls = &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: callsAtOnce, DisableCompression: true}}
	p.watch = &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}, Timeout: configWait}
	p.config.changed = map[*func(old, new map[string]string)]struct{}{}
	return p
}

// NewContext returns a context as a handler gets it, for tests: it knows the invocation
// and ends at its deadline, and calls, configuration and secrets are looked for at l. The
// returned function ends what runs in the background.
func NewContext(ctx context.Context, inv Invocation, l Local) (context.Context, context.CancelFunc) {
	p := newPlatform(l)
	ctx, cancel := context.WithCancel(ctx)
	p.config.life = ctx
	inv.calls = make(chan struct{}, callsAtOnce)
	ctx = context.WithValue(context.WithValue(ctx, invocationKey{}, inv), platformKey{}, p)
	stop := func() {
		cancel()
		p.config.running.Wait()
		p.calls.CloseIdleConnections()
		p.watch.CloseIdleConnections()
	}
	if inv.Deadline.IsZero() {
		return ctx, stop
	}
	ctx, end := context.WithDeadline(ctx, inv.Deadline)
	return ctx, func() { end(); stop() }
}

// Serve is [Start] for tests: it asks for events at l, until ctx is done or the handler
// panics, and returns why it ended.
func Serve[In, Out any](ctx context.Context, l Local, h func(ctx context.Context, in In) (Out, error)) error {
	c := &client{network: "unix", address: l.Socket, host: "dayfly"}
	defer c.close()
	ctx, stop := NewContext(ctx, Invocation{}, l)
	defer stop()
	return serve(ctx, c, rawHandler(h))
}
