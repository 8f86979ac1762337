"""What a process is started with that is to find all else by itself, as a service manager starts it."""

import os

BARE = {name: os.environ[name] for name in ("HOME", "PATH")}
"""Nothing that this process, its tests or what they import have set is in it."""
