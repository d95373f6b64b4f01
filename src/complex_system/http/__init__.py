"""What every HTTP server of the system shares."""
