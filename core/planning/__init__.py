"""From choices and counts to the numbers of a run: steps, rate, memory, time."""
