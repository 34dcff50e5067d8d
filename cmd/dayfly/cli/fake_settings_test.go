package cli_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
)

// settings are what the server keeps of one function.
type settings struct {
	revision int
	values   map[string]string
	secrets  map[string]string
}

// settingsRoutes are the endpoints of settings.
func (f *fakeAPI) settingsRoutes() map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/functions/{ref}/config":            f.config,
		"PATCH /v1/functions/{ref}/config":          f.changeConfig,
		"GET /v1/functions/{ref}/secrets":           f.listSecrets,
		"PUT /v1/functions/{ref}/secrets/{name}":    f.setSecret,
		"DELETE /v1/functions/{ref}/secrets/{name}": f.unsetSecret,
		"POST /v1/secrets/rotate":                   f.rotateSecrets,
	}
}

// settingsOf returns those of the function that a request names. The caller holds mu.
func (f *fakeAPI) settingsOf(r *http.Request) (*settings, error) {
	if strings.Contains(r.PathValue("ref"), ":") {
		return nil, f.violation("settings of %s", r.PathValue("ref"))
	}
	ref, err := wire.ParseRef(r.PathValue("ref"))
	if err != nil {
		return nil, f.violation("%s", err)
	}
	if f.settings == nil {
		f.settings = map[wire.FunctionID]*settings{}
	}
	s := f.settings[ref.FunctionID]
	if s == nil {
		s = &settings{values: map[string]string{}, secrets: map[string]string{}}
		f.settings[ref.FunctionID] = s
	}
	return s, nil
}

func (s *settings) config() functions.Config {
	return functions.Config{Revision: string(rune('0' + s.revision)), Values: s.values}
}

func (f *fakeAPI) config(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.settingsOf(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s.config())
}

func (f *fakeAPI) changeConfig(w http.ResponseWriter, r *http.Request) error {
	var change struct {
		Set    map[string]string `json:"set"`
		Remove []string          `json:"remove"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&change); err != nil || len(change.Set)+len(change.Remove) == 0 {
		return f.violation("change: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.settingsOf(r)
	if err != nil {
		return err
	}
	if err := functions.CheckConfig(change.Set); err != nil {
		return err
	}
	for name, value := range change.Set {
		s.values[name] = value
	}
	for _, name := range change.Remove {
		delete(s.values, name)
	}
	s.revision++
	return answer(w, http.StatusOK, s.config())
}

func (f *fakeAPI) listSecrets(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.settingsOf(r)
	if err != nil {
		return err
	}
	list := []functions.SecretInfo{}
	for name := range s.secrets {
		list = append(list, functions.SecretInfo{Name: name, UpdatedAt: f.ago(time.Minute)})
	}
	slices.SortFunc(list, func(a, b functions.SecretInfo) int { return strings.Compare(a.Name, b.Name) })
	return answer(w, http.StatusOK, map[string]any{"secrets": list})
}

func (f *fakeAPI) setSecret(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Value *string `json:"value"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Value == nil {
		return f.violation("secret: %v", err)
	}
	if *body.Value == "" {
		return wire.Errorf(wire.CodeInvalid, "the value of the secret %s is empty", r.PathValue("name"))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.settingsOf(r)
	if err != nil {
		return err
	}
	s.secrets[r.PathValue("name")] = *body.Value
	return answer(w, http.StatusOK, functions.SecretInfo{Name: r.PathValue("name"), UpdatedAt: f.ago(0)})
}

func (f *fakeAPI) unsetSecret(w http.ResponseWriter, r *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.settingsOf(r)
	if err != nil {
		return err
	}
	if _, there := s.secrets[r.PathValue("name")]; !there {
		return wire.Errorf(wire.CodeNotFound, "there is no secret %s", r.PathValue("name"))
	}
	delete(s.secrets, r.PathValue("name"))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (f *fakeAPI) rotateSecrets(w http.ResponseWriter, _ *http.Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := 0
	for _, s := range f.settings {
		count += len(s.secrets)
	}
	return answer(w, http.StatusOK, map[string]int{"secrets": count})
}

// stored is the value of a secret as the server has it, of whatever function.
func (f *fakeAPI) stored(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.settings {
		if value, there := s.secrets[name]; there {
			return value
		}
	}
	return ""
}
