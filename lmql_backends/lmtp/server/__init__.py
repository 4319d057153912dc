"""The server's side: connections over `DcModel`s, the ASGI application, and what guards them."""
