"""New versions go live step by step, watched beside the old one, and are taken back by themselves, with the reason."""
