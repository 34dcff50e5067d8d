package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/wire"
)

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := wire.InvokeRequest{
			Invocation: wire.InvocationID(rapid.String().Draw(t, "invocation")),
			Version:    wire.VersionID{FunctionID: functionIDs().Draw(t, "function"), Number: rapid.Int().Draw(t, "number")},
			Epoch:      rapid.Uint64().Draw(t, "epoch"),
		}
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		prefix := rapid.SliceOf(rapid.Byte()).Draw(t, "prefix")
		frame, err := wire.AppendFrame(bytes.Clone(prefix), want, body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(frame, prefix) {
			t.Fatal("what was there before is gone")
		}
		var got wire.InvokeRequest
		back, err := wire.ParseFrame(frame[len(prefix):], &got)
		if err != nil || !bytes.Equal(back, body) {
			t.Fatalf("body %q, %v", back, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestAppendFrameRefuses(t *testing.T) {
	if _, err := wire.AppendFrame(nil, func() {}, nil); err == nil {
		t.Error("a header that is no JSON was taken")
	}
}

func TestParseFrameRefuses(t *testing.T) {
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"half a length":       {0, 0, 0},
		"no header":           {0, 0, 0, 0},
		"header cut off":      {0, 0, 0, 3, '{', '}'},
		"length of all ones":  {0xff, 0xff, 0xff, 0xff, '{', '}'},
		"header is no JSON":   {0, 0, 0, 2, '{', '{', '}'},
		"header is no object": {0, 0, 0, 1, '1'},
	} {
		var header wire.InvokeReply
		if body, err := wire.ParseFrame(data, &header); !errors.Is(err, wire.ErrFrame) || body != nil {
			t.Errorf("%s: %q, %v; want ErrFrame", name, body, err)
		}
	}
}

// FuzzParseFrame: a frame is read without harm, and its body is what its length says.
func FuzzParseFrame(f *testing.F) {
	good, err := wire.AppendFrame(nil, wire.InvokeReply{Node: "n", Cold: true}, []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var header wire.InvokeReply
		body, err := wire.ParseFrame(data, &header)
		if err != nil {
			if !errors.Is(err, wire.ErrFrame) {
				t.Errorf("error %v", err)
			}
			return
		}
		if want := data[4+binary.BigEndian.Uint32(data):]; !bytes.Equal(body, want) {
			t.Errorf("body %q, want %q", body, want)
		}
	})
}
