"""A `DcModel` over OpenAI's API and its relatives. Importing this loads neither the SDK nor aiohttp."""
