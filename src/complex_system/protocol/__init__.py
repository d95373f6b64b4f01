"""What services say to each other: every event, request and reply of ours as a type beside its subject. No broker and no I/O here."""
