"""Where facts live: one store, written once over a small SQL dialect.

Truth tables, and derived tables that can be dropped and folded again.
"""
