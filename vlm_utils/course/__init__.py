"""For instructors and CI: running, checking and examining lessons; no lesson imports it."""
