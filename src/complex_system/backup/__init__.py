"""Backups of a whole deployment, made while it runs, and their restoration. The running system imports nothing of it."""
