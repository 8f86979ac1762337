"""gRPC as every part here speaks it: TLS 1.3 only, errors with a reason, bounded messages."""

import os

# TLS 1.2 can't be refused by an API; a 1.2 suite that needs a pre-shared key, which nobody has, leaves 1.3 alone.
os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "PSK-AES128-CBC-SHA")
# gRPC's own log lines name peers and would mix with ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
