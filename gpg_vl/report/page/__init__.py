"""Show runs as one page: a single HTML file that needs no network and no server. No torch."""
