"""What is pinned, who signed what, and whether it counts. Pure: bytes and the time are handed in."""
