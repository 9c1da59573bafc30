"""Recognise the layout of rows, and propose the source of a config that reads them."""
