"""Cases, and the implementations that are compared in them."""
