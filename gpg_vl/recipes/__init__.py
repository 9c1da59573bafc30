"""One module per data set, one function each: options in, samples out. What can be said in data stands on its card in `data/`."""

ALIASES = {
    "digits": "gpg_vl.recipes.digits:digits",
    "sat": "gpg_vl.recipes.sat:sat",
    "cv_bench": "gpg_vl.recipes.cv_bench:cv_bench",
    "lisa": "gpg_vl.recipes.lisa:lisa",
    "refcoco": "gpg_vl.recipes.refcoco:refcoco",
    "refcoco_plus": "gpg_vl.recipes.refcoco:refcoco_plus",
    "refcocog": "gpg_vl.recipes.refcoco:refcocog",
    "refgta": "gpg_vl.recipes.refcoco:refgta",
    "geoqa": "gpg_vl.recipes.geoqa:geoqa",
    "clevr": "gpg_vl.recipes.clevr:clevr",
    "superclevr": "gpg_vl.recipes.clevr:superclevr",
    "flower102": "gpg_vl.recipes.fine_grained:flower102",
    "pets37": "gpg_vl.recipes.fine_grained:pets37",
    "fgvc_aircraft": "gpg_vl.recipes.fine_grained:fgvc_aircraft",
    "cars196": "gpg_vl.recipes.fine_grained:cars196",
    "coco": "gpg_vl.recipes.detection:coco",
    "lvis": "gpg_vl.recipes.detection:lvis",
}
