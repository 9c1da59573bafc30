"""From rows on disk or a hub to checked samples in an endless order."""
