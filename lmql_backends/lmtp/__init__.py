"""LMTP: any `DcModel` behind a socket, a pipe or a balancer, and the clients for it (docs/lmtp.md)."""
