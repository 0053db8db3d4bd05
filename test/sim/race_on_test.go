//go:build race

package sim

// raceDetector says whether the race detector is on.
const raceDetector = true
