"""The vault's core, which looks for a newer storage root all the time, and may kill itself (SIGKILL) on the way.

`python rotating.py CONFIG [STEP]`: it dies after so many steps of a rotation's walk, each of one record.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from ipls.hsm import pipe
from ipls.hsm.core import app, rotation
from ipls.hsm.core.rotation import Rotation, RotationProgress
from ipls.runtime.logging import configure_logging

if __name__ == "__main__":
    rotation.LOOK_EVERY_S, rotation.PAUSE_S, rotation.PAGE = 0.01, 0, 1
    steps, step = [int(place) for place in sys.argv[2:]], Rotation.step

    def dying_step(self: Rotation, storage_key_id: bytes, after: bytes) -> RotationProgress:
        if steps:
            steps[0] -= 1
            if steps[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return step(self, storage_key_id, after)

    Rotation.step = dying_step
    configure_logging()
    asyncio.run(app.serve(Path(sys.argv[1]), pipe.take_stdio()[0]))
