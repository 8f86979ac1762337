"""The directory service: one publisher, proved reads, the update queue's door."""
