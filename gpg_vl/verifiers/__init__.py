"""Who scores an answer: one verifier per kind of answer, the same in training and evaluation. No torch here."""

ALIASES = {
    "choice": "gpg_vl.verifiers.choice:Choice",
    "number": "gpg_vl.verifiers.number:Number",
    "boxes": "gpg_vl.verifiers.boxes:Boxes",
}
