package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrFrame is wrapped by every error of [ParseFrame].
var ErrFrame = errors.New("malformed frame")

// AppendFrame appends a frame to dst: the header as JSON, led by its length as
// four big-endian bytes, then the body as it is. Payloads are never re-encoded.
func AppendFrame(dst []byte, header any, body []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	encoded, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode frame header: %w", err)
	}
	dst = append(dst, encoded...)
	//nolint:gosec // a header of 4 GiB is none of ours
	binary.BigEndian.PutUint32(dst[start:], uint32(len(encoded)))
	return append(dst, body...), nil
}

// ParseFrame reads the header of a frame into header and returns the body, which
// shares data's memory. Its errors wrap [ErrFrame].
func ParseFrame(data []byte, header any) (body []byte, err error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrame, len(data))
	}
	n := binary.BigEndian.Uint32(data)
	rest := data[4:]
	if uint64(n) > uint64(len(rest)) {
		return nil, fmt.Errorf("%w: header of %d bytes in %d", ErrFrame, n, len(rest))
	}
	if err := json.Unmarshal(rest[:n], header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFrame, err)
	}
	return rest[n:], nil
}
