"""From the cells of a row to the fields of a sample, one module for each kind of column."""
