"""The directory service: one publisher, proved reads, the update queue's door."""

from ipls.server.directory.app import Directory, directory, serve

__all__ = ["Directory", "directory", "serve"]
