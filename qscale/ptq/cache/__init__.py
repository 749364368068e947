"""Keys and values as a cache would hold them: what encodes them, and the way into a model's attention."""
