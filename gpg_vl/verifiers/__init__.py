"""Score answers: one verifier per kind of answer, the same in training and evaluation. No torch."""

ALIASES = {
    "choice": "gpg_vl.verifiers.choice:Choice",
    "number": "gpg_vl.verifiers.number:Number",
    "value": "gpg_vl.verifiers.value:Value",
    "expression": "gpg_vl.verifiers.expression:Expression",
    "boxes": "gpg_vl.verifiers.boxes:Boxes",
    "detection": "gpg_vl.verifiers.detection:Detection",
    "label": "gpg_vl.verifiers.label:Label",
}
