"""The store on MongoDB. What only the stand-in for MongoDB needs is in ``secantus`` and nowhere else."""
