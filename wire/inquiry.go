package wire

import "time"

// NodeInquirySubject is where a node says what became of the invocations that it was
// offered, see [InquiryRequest].
func NodeInquirySubject(n NodeID) string { return "dayfly.node." + string(n) + ".inquiry" }

const (
	// MaxInquiry bounds the offers of one [InquiryRequest].
	MaxInquiry = 256
	// InquiryBound is how soon an answer to an inquiry must come to be believed.
	InquiryBound = time.Second
)

// Offer is one message by which a node was offered an invocation.
type Offer struct {
	Invocation InvocationID `json:"invocation"`
	// Number is that of the [InvokeRequest].
	Number uint64 `json:"number"`
	// AgeMillis is how long ago it was sent.
	AgeMillis int64 `json:"ageMillis"`
}

// InquiryRequest asks a node for what it was offered and has not answered for a while:
// either may have been lost on the way, with a server that passed it on.
type InquiryRequest struct {
	Offers []Offer `json:"offers"`
}

// InquiryReply answers an [InquiryRequest].
type InquiryReply struct {
	// Fates are those of the offers, in their order.
	Fates []Fate `json:"fates"`
}

// Fate is what became of an offer.
type Fate string

const (
	// FateUnderWay: the node has it, and will answer.
	FateUnderWay Fate = "under_way"
	// FateAnswered: the node has answered, and has just sent the same answer again.
	FateAnswered Fate = "answered"
	// FateNever: the node did not get it, and will not take it any more. Nothing ran.
	FateNever Fate = "never"
	// FateUnknown: the node has it not, and may have answered it.
	FateUnknown Fate = "unknown"
)
