"""Time of first calls and of the steps between them."""
