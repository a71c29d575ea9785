"""How the server stands load and abuse, and how it compares."""
