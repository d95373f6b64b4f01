"""The store on MariaDB. Its driver is imported in ``pool`` and nowhere else."""
