"""Yield the samples of published data sets: one function per data set, from options to samples.

Facts about a data set (files, counts, columns) are on its card in `data/`.
"""

ALIASES = {
    "digits": "gpg_vl.data.recipes.digits:digits",
    "sat": "gpg_vl.data.recipes.sat:sat",
    "cv_bench": "gpg_vl.data.recipes.cv_bench:cv_bench",
    "lisa": "gpg_vl.data.recipes.lisa:lisa",
    "refcoco": "gpg_vl.data.recipes.refcoco:refcoco",
    "refcoco_plus": "gpg_vl.data.recipes.refcoco:refcoco_plus",
    "refcocog": "gpg_vl.data.recipes.refcoco:refcocog",
    "refgta": "gpg_vl.data.recipes.refcoco:refgta",
    "geoqa": "gpg_vl.data.recipes.geoqa:geoqa",
    "clevr": "gpg_vl.data.recipes.clevr:clevr",
    "superclevr": "gpg_vl.data.recipes.clevr:superclevr",
    "flower102": "gpg_vl.data.recipes.fine_grained:flower102",
    "pets37": "gpg_vl.data.recipes.fine_grained:pets37",
    "fgvc_aircraft": "gpg_vl.data.recipes.fine_grained:fgvc_aircraft",
    "cars196": "gpg_vl.data.recipes.fine_grained:cars196",
    "coco": "gpg_vl.data.recipes.detection:coco",
    "lvis": "gpg_vl.data.recipes.detection:lvis",
}
"""Name of a recipe in a config -> import path."""
