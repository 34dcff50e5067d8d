package e2e_test

import (
	"archive/zip"
	"bytes"
	"strings"
	"testing"
)

// wheel makes a wheel of a package with one module, which is a zip.
func wheel(t *testing.T, name, module string) string {
	t.Helper()
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	info := name + "-1.0.dist-info/"
	for _, f := range [][2]string{
		{name + "/__init__.py", module},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: e2e\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + "/__init__.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		w, err := archive.Create(f[0])
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

// apart are set-ups that share nothing: what the one has built is new to the other.
func apart() []sharedSetup { return []sharedSetup{{"up", world.up}, {"oci", world.oci}} }

// sameDigest fails unless a deploy built its artifact, and built what the one before did.
func sameDigest(t *testing.T, before *string, d deployment) {
	t.Helper()
	switch code := d.Version.Code; {
	case d.Cached || code == "":
		t.Errorf("built %+v", d)
	case *before == "":
		*before = code
	case *before != code:
		t.Errorf("the same input has the digest %s here and %s elsewhere", code, *before)
	}
}

// TestPythonPackages: wheels in the folder are installed beside the function, without an
// index, and once only. Whoever installs them makes the same of them.
func TestPythonPackages(t *testing.T) {
	t.Parallel()
	var digest string
	on(t, apart(), func(t *testing.T, p *platform) { // one after the other: at other times
		const file = "wheels/greeting-1.0-py3-none-any.whl"
		f := files{
			"dayfly.yaml":      "name: wheels\nruntime: python\nhandler: app.handler\nnetwork: none\n",
			"app.py":           "from importlib.metadata import version\nimport greeting\n\ndef handler(event, context):\n    return [greeting.of(event), version('greeting')]\n",
			"requirements.txt": "--no-index\n--find-links wheels\ngreeting==1.0\n", // and no other
			file:               wheel(t, "greeting", "def of(name):\n    return 'hello ' + name\n"),
			".dayflyignore":    "*.md\n",
		}
		first := p.deploy(t, f)
		sameDigest(t, &digest, first)
		if !strings.Contains(first.BuildLog, "Successfully installed greeting-1.0") {
			t.Errorf("built %+v", first)
		}
		p.invoke(t, "wheels", "you").wantJSON(t, `["hello you", "1.0"]`)

		f["app.py"] = strings.Replace(f["app.py"], "event), version", "event).upper(), version", 1)
		second := p.deploy(t, f)
		if !second.Cached || strings.Contains(second.BuildLog, "Successfully installed") {
			t.Errorf("built %+v", second)
		}
		p.invoke(t, "wheels", "you").wantJSON(t, `["HELLO YOU", "1.0"]`)

		f["requirements.txt"] = "--no-index\n--find-links wheels\ngreeting==2.0\n"
		out := p.failDeploy(t, f)
		if !strings.HasPrefix(out, "error: ERROR: ") || !strings.Contains(out, "greeting==2.0") {
			t.Errorf("the tool's own words do not lead: %s", out)
		}
		// What is installed already is used as it is.
		f["greeting.py"] = "def of(name):\n    return 'vendored ' + name\n"
		f["app.py"] = "import greeting\n\ndef handler(event, context):\n    return greeting.of(event)\n"
		p.deploy(t, f, "--vendor")
		p.invoke(t, "wheels", "you").wantJSON(t, `"vendored you"`)
	})
}

// failDeploy returns what the command says of a deploy that fails.
func (p *platform) failDeploy(t *testing.T, f files, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := f.folder(dir); err != nil {
		t.Fatal(err)
	}
	out := p.cli(t, append([]string{"deploy", dir, "-o", "json"}, flags...)...)
	if out.code == 0 {
		t.Fatalf("deployed: %s", out.stdout)
	}
	return strings.TrimSpace(out.stderr)
}

// TestPackageIndexIsDown: the error says which one and what to do.
func TestPackageIndexIsDown(t *testing.T) {
	t.Parallel()
	p, err := world.up()
	if err != nil {
		t.Fatal(err)
	}
	closed, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	out := p.failDeploy(t, files{
		"dayfly.yaml": "name: indexless\nruntime: python\nhandler: app.handler\n", "app.py": "def handler(event, context):\n    return 1\n",
		"requirements.txt": "--index-url http://" + closed + "/simple\nrequests\n",
	})
	for _, want := range []string{closed + " could not be reached", "PIP_INDEX_URL", "--vendor", "requests"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in: %s", want, out)
		}
	}
}

// TestNodePackages: three packages of the registry, by a lock file. Whoever installs them
// makes the same of them.
func TestNodePackages(t *testing.T) {
	t.Parallel()
	var digest string
	on(t, apart(), func(t *testing.T, p *platform) { // as above
		f := files{
			"dayfly.yaml":       "name: packed\nruntime: node\nhandler: index.handler\nnetwork: none\n",
			"package.json":      testdata(t, "packages/package.json"),
			"package-lock.json": testdata(t, "packages/package-lock.json"),
			".dayflyignore":     "node_modules\n", // of the user's own
			"index.mjs": "import kleur from 'kleur';\nimport mri from 'mri';\nimport ms from 'ms';\n" +
				"export const handler = async (event) => [kleur.red('x').includes('x'), mri(['--a', '1']).a, ms('2 days')];\n",
		}
		first := p.deploy(t, f)
		sameDigest(t, &digest, first)
		if !strings.Contains(first.BuildLog, "added 3 packages") {
			t.Errorf("built %+v", first)
		}
		p.invoke(t, "packed", nil).wantJSON(t, "[true,1,172800000]")
		f["index.mjs"] = strings.Replace(f["index.mjs"], "ms('2 days')", "ms('1h')", 1)
		if second := p.deploy(t, f); !second.Cached {
			t.Errorf("built %+v", second)
		}
		p.invoke(t, "packed", nil).wantJSON(t, "[true,1,3600000]")
	})
}
