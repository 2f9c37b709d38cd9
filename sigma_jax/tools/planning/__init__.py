"""Parts of tools.plan: what a compiled step needs and how long it should take."""
