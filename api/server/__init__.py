"""The server: processes, sockets, connections, starting and stopping."""
