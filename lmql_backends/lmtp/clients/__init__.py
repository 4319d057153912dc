"""How a client reaches a server: websocket, child process, in process."""
