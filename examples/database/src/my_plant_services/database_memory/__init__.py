"""The database service that keeps everything in memory."""
