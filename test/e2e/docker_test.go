package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Labels of Dayfly's containers.
const (
	labelOwner    = "run.dayfly.owner"
	labelInstance = "run.dayfly.instance"
)

// docker asks the engine directly, so that these tests do not see containers
// through the eyes of the code that they test.
type docker struct {
	client *http.Client

	mu   sync.Mutex
	made []string // guarded by mu: IDs of the containers of this run
}

type container struct {
	ID     string `json:"Id"`
	Names  []string
	Labels map[string]string
	State  string
}

func (c container) name() string { return strings.Join(c.Names, ",") }

type network struct {
	Name    string
	Created time.Time
	Labels  map[string]string
}

// openDocker connects to the engine, or says that there is none.
func openDocker() (*docker, error) {
	socket := "/var/run/docker.sock"
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		var ok bool
		if socket, ok = strings.CutPrefix(host, "unix://"); !ok {
			return nil, fmt.Errorf("DOCKER_HOST is %s; these tests need an engine on this machine: unix:///path", host)
		}
	}
	d := &docker{client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
	if err := d.ask(http.MethodGet, "/version", nil, nil); err != nil {
		return nil, fmt.Errorf("these tests need a Docker Engine; start one (systemctl start docker, or make ensure): %w", err)
	}
	return d, nil
}

func (d *docker) ask(method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, "http://docker"+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // as much as there is
		return fmt.Errorf("docker %s %s: %s: %s", method, path, response.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// containers lists those with the owner's label, running or not.
func (d *docker) containers() (list []container, err error) {
	filter := url.QueryEscape(`{"label":["` + labelOwner + `"]}`)
	return list, d.ask(http.MethodGet, "/containers/json?all=1&filters="+filter, nil, &list)
}

// of lists the containers of a node.
func (d *docker) of(t *testing.T, node string) (found []container) {
	t.Helper()
	list, err := d.containers()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Labels[labelOwner] == "invoker/"+node {
			found = append(found, c)
		}
	}
	return found
}

// watch notes each container that the engine makes from now on for an owner in whose
// name the text is, until stop is called.
func (d *docker) watch(owner string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	filter := url.QueryEscape(`{"type":["container"],"event":["create"],"label":["` + labelOwner + `"]}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/events?filters="+filter, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := (&http.Client{Transport: d.client.Transport}).Do(request) // without its time limit
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer response.Body.Close()
		events := json.NewDecoder(response.Body)
		for {
			var e struct {
				Actor struct {
					ID         string
					Attributes map[string]string
				}
			}
			if events.Decode(&e) != nil {
				return // stopped
			}
			if strings.Contains(e.Actor.Attributes[labelOwner], owner) {
				d.mu.Lock()
				d.made = append(d.made, e.Actor.ID)
				d.mu.Unlock()
			}
		}
	}()
	return func() { cancel(); <-ended }, nil
}

// ids returns the IDs of all containers that were made in this run.
func (d *docker) ids() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := map[string]bool{}
	for _, id := range d.made {
		ids[id] = true
	}
	return ids
}

func (d *docker) networks() (list []network, err error) {
	filter := url.QueryEscape(`{"label":["` + labelOwner + `"]}`)
	return list, d.ask(http.MethodGet, "/networks?filters="+filter, nil, &list)
}

// removeKept removes networks of earlier runs that an engine kept which has been started
// again since then: see excuse.
func (d *docker) removeKept() error {
	list, err := d.networks()
	for _, n := range list {
		if strings.Contains(n.Labels[labelOwner], "/e2e-") && time.Since(n.Created) > time.Hour {
			_ = d.ask(http.MethodDelete, "/networks/"+n.Name, nil, nil) // refused when it is in use
		}
	}
	return err
}

// foreign starts a container that is not Dayfly's, with these labels, and removes it
// after the test. Its image is one that Dayfly has made, because there is no other.
func (d *docker) foreign(t *testing.T, labels map[string]string) (id string) {
	t.Helper()
	var images []struct{ RepoTags []string }
	if err := d.ask(http.MethodGet, "/images/json", nil, &images); err != nil {
		t.Fatal(err)
	}
	image := ""
	for _, i := range images {
		for _, tag := range i.RepoTags {
			if strings.HasPrefix(tag, "dayfly-root-base:") {
				image = tag
			}
		}
	}
	if image == "" {
		t.Fatal("no image of a runtime: a platform must have started before")
	}
	var created struct {
		ID string `json:"Id"`
	}
	err := d.ask(http.MethodPost, "/containers/create", map[string]any{
		"Image": image, "Entrypoint": []string{"/bin/sleep"}, "Cmd": []string{"600"}, "Labels": labels,
		"HostConfig": map[string]any{"NetworkMode": "none"},
	}, &created)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.ask(http.MethodDelete, "/containers/"+created.ID+"?force=1", nil, nil); err != nil {
			t.Error(err)
		}
	})
	if err := d.ask(http.MethodPost, "/containers/"+created.ID+"/start", nil, nil); err != nil {
		t.Fatal(err)
	}
	return created.ID
}

// running reports whether a container runs.
func (d *docker) running(t *testing.T, id string) bool {
	t.Helper()
	var info struct{ State struct{ Running bool } }
	if err := d.ask(http.MethodGet, "/containers/"+id+"/json", nil, &info); err != nil {
		t.Log(err)
		return false
	}
	return info.State.Running
}
