package builder

import (
	"runtime"
	"testing"

	"github.com/dayfly-run/dayfly/wire"
)

// program is the beginning of a program for a machine: 0x3e is amd64, 0xb7 arm64.
func program(machine byte) string {
	return "\x7fELF\x02\x01\x01" + string(make([]byte, 9)) + "\x02\x00" + string([]byte{machine, 0}) + "and more"
}

func TestArchOfWhatIsBuilt(t *testing.T) {
	const amd64, arm64 = 0x3e, 0xb7
	const python, provided = "name: x\nruntime: python\nhandler: app.handler\n", "name: x\nruntime: provided\n"
	w := newWorkshop(t, nil)
	for name, test := range map[string]struct {
		bundle files
		want   string
		fails  string
	}{
		"only text":     {bundle: files{"dayfly.yaml": python, "app.py": "", "short": "\x7fELF"}},
		"a library":     {bundle: files{"dayfly.yaml": python, "app.py": "", "x/y.so": program(arm64)}, want: "arm64"},
		"several equal": {bundle: files{"dayfly.yaml": python, "app.py": "", "a.so": program(amd64), "b.so": program(amd64)}, want: "amd64"},
		"one for each":  {bundle: files{"dayfly.yaml": python, "app.py": "", "a.so": program(amd64), "b.so": program(arm64)}},
		"a script":      {bundle: files{"dayfly.yaml": provided, "bootstrap*": "#!/bin/sh\n# long enough\n"}},
		"a program":     {bundle: files{"dayfly.yaml": provided, "bootstrap*": program(arm64)}, want: "arm64"},
		"as asked for":  {bundle: files{"dayfly.yaml": provided + "nodeSelector: {arch: arm64}\n", "bootstrap*": program(arm64)}, want: "arm64"},
		"another machine": {
			bundle: files{"dayfly.yaml": provided + "nodeSelector: {arch: amd64}\n", "bootstrap*": program(arm64)},
			fails:  "nodeSelector asks for nodes with arch=amd64, and the function's programs were made for arm64",
		},
		"go elsewhere": {
			bundle: files{"dayfly.yaml": "name: x\nruntime: go\nnodeSelector: {arch: s390x}\n", "main.go": "package main"},
			fails:  "the function's programs were made for " + runtime.GOARCH,
		},
	} {
		t.Run(name, func(t *testing.T) {
			reply := w.build(test.bundle)
			switch {
			case test.fails != "":
				wantFailure(t, reply, wire.CodeInvalid, test.fails)
			case reply.Error != nil || reply.Arch != test.want:
				t.Errorf("arch %q, want %q; %v", reply.Arch, test.want, reply.Error)
			}
		})
	}
}
