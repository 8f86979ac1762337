"""A CardDAV server of the list for the programs on this machine; HTTP itself is in `ipls.cli.serve_dav`."""
