"""Texts that a page must show as they are, or shortened, and that must not do anything.

Each script among them sets `window.__hacked` or opens a dialog, so that a test sees it run.
"""

HACK = "window.__hacked=1;alert(1)"

HOSTILE = {
    "script": f"</script><script>{HACK}</script>",
    "comment": f"<!-- <script> --><script>{HACK}</script><!--",
    "image": f'<img src=x onerror="{HACK}">',
    "attribute": f'" onmouseover="{HACK}" autofocus onfocus=\'{HACK}\' x="',
    "style": "</style><style>*{display:none!important}</style>",
    "textarea": f"</textarea></template></title></noscript><svg onload={HACK}>",
    "link": f"javascript:{HACK}",
    "frame": f'<iframe srcdoc="<script>parent.{HACK}</script>"></iframe>',
    "entities": "&lt;b&gt; &amp;amp; &#x41; &nbsp;",
    "jinja": "{{ jinja }} {% for x in y %} {{ 7*7 }} {# gone #}",
    "template literal": "`${" + HACK + "}` \\u003cscript\\u003e \\",
    "json": '{"a": "</script>", "b": [1, null, NaN]} __proto__ constructor',
    "cdata": f"<![CDATA[ ]]> <script>{HACK}</script> ]]>",
    "long": "0123456789" * 10_000,
    "long lines": "\n".join("line" for _ in range(5_000)),
    "override": "abc \u202e fed \u202d ghi \u2066 jkl",
    "right to left": "\u0643\u0645 \u0639\u062f 3 \u05db\u05de\u05d4 \u05e9\u05dc\u05d5\u05dd",
    "emoji": "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1fa\U0001f1f3",
    "combining": "e\u0301" + "\u0334" * 40,
    "control": "nul \x00 bell \x07 escape \x1b[31m delete \x7f back \b return \r form \x0c end",
    "surrogate": "half a pair \ud83d and the other half \udc4d",
    "separators": "one\u2028two\u2029three\u0085four\x1dfive",
    "invisible": "\ufeff\u200b\u200c\u200d\u2060\ufffe\uffff",
}
"""Name -> text."""
