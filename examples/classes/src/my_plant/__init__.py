"""Classes of a project's own."""
