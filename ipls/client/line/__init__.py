"""An account's line of commits on a device (contacts.md): what it keeps, reads, merges and writes.

kept     the profile's rows of it, and one step's changes to them
reader   pull, settle: what the store shows, checked and folded
writer   edits and bases on their way
line     `Line`, which puts these together
"""
