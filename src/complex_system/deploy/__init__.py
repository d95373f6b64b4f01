"""Deployment with Docker: the templates of images and compose files, a deployment's secrets, and images without buildx."""
