"""From a recommendation to what deploys it: files for Ray Serve, Kubernetes and Compose."""
