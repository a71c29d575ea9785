"""What is measured of a Session."""
