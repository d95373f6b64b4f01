"""Share what every HTTP server of the system needs: the server, the API key, limits of requests, responses.

Nothing here knows models, monitoring or the broker.
"""
