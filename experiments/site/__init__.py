"""The site of `make docs`: pages of docs/, and what is made of other files while it is built. mkdocs calls hooks.py."""
