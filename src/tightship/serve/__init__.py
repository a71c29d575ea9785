"""Packages as a server answers for them: the protocol, access, measures, and new versions that prove themselves."""
