"""Exit codes of the command line."""

OK = 0
NOTHING_SUCCEEDED = 1
SPEC = 2
INFRASTRUCTURE = 3
INTERRUPTED = 130
