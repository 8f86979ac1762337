"""gRPC as every part here speaks it: TLS 1.3 only, errors with a reason, bounded messages."""

import ipls._grpc  # noqa: F401  # before grpc_health and the like, which import grpc themselves
