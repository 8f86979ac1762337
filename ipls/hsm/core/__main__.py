"""`python -m ipls.hsm.core CONFIG`."""

from ipls.hsm.core.app import run
from ipls.hsm.process import main

if __name__ == "__main__":
    main("core", run)
