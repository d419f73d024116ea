"""Side-by-side runs against peers: ratios measured in one process, on the machine at hand."""
