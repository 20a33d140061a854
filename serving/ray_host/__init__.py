"""Ray Serve in a supervised process of its own, and the client that talks to it."""
