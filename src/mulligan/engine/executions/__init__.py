"""One execution from its request to its answer: judged, run, told about, and recorded."""
