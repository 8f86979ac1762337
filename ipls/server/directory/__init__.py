"""The directory service: one publisher, proved reads, the update queue's door."""

from ipls.server.directory.service import directory, serve

__all__ = ["directory", "serve"]
