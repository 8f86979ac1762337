"""What an outsider, holding only the trust root, checks of a public log and its witnesses. Pure: it is handed bytes."""
