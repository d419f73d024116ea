"""How long it takes and how much memory: ratios to peers, first calls, long sessions."""
