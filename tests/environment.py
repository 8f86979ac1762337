"""What processes are started with."""

import os

BARE = {name: os.environ[name] for name in ("HOME", "PATH")}
"""For one that is to find all else by itself, as a service manager starts it: nothing is in it that this process, its
tests or what they import have set."""
DIES_WITH_US = ["setpriv", "--pdeathsig=KILL"]
"""Before the command of one that nothing else tells to end: however the thread that starts it ends, it is killed."""
