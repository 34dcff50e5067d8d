package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"time"
)

// moduleProxy is where builders fetch Go modules from. It passes on what this machine
// has a proxy for of the owners that tests use, and knows nothing else, so that no test
// depends on what a server far away says of a module that is not there.
type moduleProxy struct {
	server *http.Server
	place  *place
	served chan error
}

// startModuleProxy starts it at a private address, which builds may reach.
func startModuleProxy() (*moduleProxy, error) {
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOPROXY: %w", err)
	}
	first, _, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(string(out)), "|", ","), ",")
	upstream, err := url.Parse(first)
	if err != nil || upstream.Host == "" {
		return nil, fmt.Errorf("GOPROXY begins with %q, and these tests need a proxy: %w", first, err)
	}
	m := &moduleProxy{served: make(chan error, 1)}
	if m.place, err = openPlace("m", false); err != nil {
		return nil, err
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) }}
	mux := http.NewServeMux()
	mux.Handle("/github.com/", forward)
	mux.Handle("/gopkg.in/", forward)
	mux.Handle("/sumdb/", forward)
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { m.served <- m.server.Serve(m.place.Listener) }()
	return m, nil
}

// setting is what tells the Go command of it.
func (m *moduleProxy) setting() string { return "GOPROXY=http://" + m.place.Addr().String() }

func (m *moduleProxy) stop() error {
	err := m.server.Shutdown(context.Background())
	if e := <-m.served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, ip("netns", "del", m.place.name))
}
