package bus

// MaxAnswers is how many pieces of an answer may wait.
const MaxAnswers = maxAnswers
