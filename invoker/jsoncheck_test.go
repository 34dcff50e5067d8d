package invoker

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"testing/iotest"
)

// FuzzJSONReader: it takes what encoding/json takes, and passes it on as it is.
func FuzzJSONReader(f *testing.F) {
	for _, text := range []string{
		"", "1", "-0.5e+7", "01", "1.", ".5", "1e", "-", "true", "tru", "nul l", `"a\u00e9\n"`, `"\x"`, `"\u12g4"`, "\"\n\"", `"open`,
		"[]", "[1,]", "[1 , 2]", "[,1]", "{}", `{"a":1,"b":[{}]}`, `{"a"}`, `{"a":1,}`, `{1:2}`, "[}", "]", " 1 \n", "1 2", "[1]]", "{\"a\":}", "0e1", "1E-2,",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, r := range []io.Reader{bytes.NewReader(data), iotest.OneByteReader(bytes.NewReader(data)), iotest.DataErrReader(bytes.NewReader(data))} {
			got, err := io.ReadAll(&jsonReader{r: r})
			if (err == nil) != json.Valid(data) {
				t.Fatalf("%q: %v, but valid: %t", data, err, json.Valid(data))
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Fatalf("%q became %q", data, got)
			}
		}
	})
}
