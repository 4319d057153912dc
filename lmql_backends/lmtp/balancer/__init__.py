"""The balancer: a `DcModel` over many workers, which routes streams and resumes those whose worker died."""
