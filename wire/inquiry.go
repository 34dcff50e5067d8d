package wire

// NodeInquirySubject is where a node says whether it has an invocation, see
// [InquiryRequest].
func NodeInquirySubject(n NodeID) string { return "dayfly.node." + string(n) + ".inquiry" }

// InquiryRequest asks a node for an invocation that it was given and has not answered for
// a while: either may have been lost on the way, with a server that passed it on.
type InquiryRequest struct {
	Invocation InvocationID `json:"invocation"`
}

// InquiryReply answers an [InquiryRequest].
type InquiryReply struct {
	// UnderWay says that the node has the invocation, and will answer.
	UnderWay bool `json:"underWay"`
}
