"""Faults in the page of a run, one line each, that the suite must see."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "report/page/read.py",
        "report/page/test_read.py",
        {
            "a small sample ends in the middle of the run": (
                "steps = evenly(steps, most)",
                "steps = steps[:most]",
            ),
            "a run that has ended goes on": (
                'state="stopped" if has_ended and state == "running" else state',
                "state=state",
            ),
            "the ids of all tokens are kept": (
                'if name not in ("token_ids", "logprobs")',
                'if name not in ("logprobs",)',
            ),
            "an evaluation of the end moves on with the run": (
                "return int(named[1]) if named else last",
                "return last",
            ),
        },
    ),
    *within(
        "report/page/pictures.py",
        "report/page/test_pictures.py",
        {
            "a row leads out of its run": (
                "return run.resolve() in file.resolve().parents",
                "return True",
            ),
            "a picture is there as often as it is shown": (
                "if name in self._keys:",
                "if name in self.data:",
            ),
            "there is always room": ("if len(small.webp) > self._room:", "if False:"),
            "a copy is as large as its picture": (
                'size = known if kind == "copy" and known else list(small.size)',
                "size = list(small.size)",
            ),
        },
    ),
    *within(
        "report/page/texts.py",
        "report/page/test_texts.py",
        {
            "control characters stay": (
                "table = {code: chr(0x2400 + code)",
                "table = {code: chr(code)",
            ),
            "the end of a long text, where the answer is, is cut off": (
                "{plain(text[len(text) - end :])}",
                "",
            ),
        },
    ),
    *within(
        "report/page/loopholes.py",
        "report/page/test_verdict.py",
        {
            "another year is near enough": (
                "if number.is_integer() and truth.is_integer():",
                "if False:",
            ),
            "a fraction is another number": ("if _FORMULA.search(given):", "if False:"),
        },
    ),
    *within(
        "report/page/learning.py",
        "report/page/test_verdict.py",
        {
            "a fall is no trouble": (
                'level="warning" if run.state == "running" else "bad",',
                'level="note",',
            ),
        },
    ),
    *within(
        "report/page/looking.py",
        "report/page/test_verdict.py",
        {"a blind model is not seen": ("if gain.high < AS_GOOD_BLIND:", "if gain.high < -1:")},
    ),
    *within(
        "report/page/verdict.py",
        "report/page/test_verdict.py",
        {
            "a gain beside a shortcut is praised": (
                'if not shortcut or finding.level != "good":',
                "if True:",
            )
        },
    ),
    *within(
        "report/page/watch.py",
        "report/page/test_watch.py",
        {
            "a page of somebody else gets the run": ("host not in NAMES", "host in ()"),
            "a picture that is a program is served": ("and kind not in NO_PICTURES", ""),
        },
    ),
]
