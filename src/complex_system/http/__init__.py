"""What every HTTP server of the system shares: the server, the API key, limits of requests, responses.

Nothing here knows models, monitoring or the broker.
"""
