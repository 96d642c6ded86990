"""The shared face: a store over HTTP, with principals, tokens and scopes."""
