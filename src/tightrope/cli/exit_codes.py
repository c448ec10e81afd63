"""What the commands exit with."""

USAGE = 2
"""Bad usage or configuration."""
CHECK_FAILED = 3
"""A check that was asked for failed."""
DIVERGED = 4
UNMEASURED = 5
"""Nothing could be measured, or a check could not be decided."""
INTERRUPTED = 130
