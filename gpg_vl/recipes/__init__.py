"""One module per data set, one function each: options in, samples out. What can be said in data stands on its card in `data/`."""

ALIASES = {
    "digits": "gpg_vl.recipes.digits:digits",
}
