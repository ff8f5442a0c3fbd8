"""The face for models: a server of the Model Context Protocol (https://modelcontextprotocol.io)."""
