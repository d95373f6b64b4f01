"""Our commands in FastIoT's command line ``fiot``, and nothing else: what a command does is in the package that it imports.

FastIoT imports these modules for every command, so each command imports its parts when it is called.
"""
