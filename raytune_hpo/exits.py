"""Exit codes of the command line."""

NOTHING_SUCCEEDED = 1
SPEC = 2
INFRASTRUCTURE = 3
INTERRUPTED = 130
