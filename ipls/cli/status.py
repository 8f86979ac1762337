"""Exit statuses of the `ipls` command."""

REFUSED = 1
"""Refused, or a verification failed."""
USAGE = 2
UNAVAILABLE = 3
"""Nothing is wrong that time may not mend: try again."""
