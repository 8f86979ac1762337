"""A person's own address books beside IPLS: sides, which are kept equal to the account's list."""
