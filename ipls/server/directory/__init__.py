"""The directory service: one publisher, proved reads, the update queue's door."""

from ipls.server.directory.service import Directory, directory, serve

__all__ = ["Directory", "directory", "serve"]
