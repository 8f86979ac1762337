"""The audit log's service as a process.

Tested by tests/server/log/test_service.py.
"""

from ipls.config import LogConfig
from ipls.http.server import serve
from ipls.runtime.service import Service
from ipls.server.log.service import log_app
from ipls.store.log.opening import open_log


async def run(config: LogConfig, service: Service) -> None:
    """Serve the log. Raises OSError if the address can't be bound, and as `open_log` does."""
    service.serving([await serve(service, log_app(open_log(config.objects)), config.listen)])
