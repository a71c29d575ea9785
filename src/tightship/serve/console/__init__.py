"""The console: a page for people at `/`, its files, and what they read. Nothing in it comes from another place."""
