"""Finding out what an endpoint can do, by a few requests of a few tokens each."""
