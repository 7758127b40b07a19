"""The formats of strings that are enforced, as regular expressions for the whole text.

In a JSON string llguidance enforces most formats with expressions of its own, which allow the same
texts. Those for dates and times are always used, because its own allow 29 February in every year,
and second 60 in every minute.
"""

from __future__ import annotations

_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    "(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29)"
)
_TIME = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,9})?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
# RFC 3339, appendix A
_CLOCK = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DAYS = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
# RFC 1123, section 2.1; RFC 5321, section 4.1.2
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = f"{_LABEL}(?:[.]{_LABEL})*"
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"(?:{_OCTET}[.]){{3}}{_OCTET}"
# RFC 4291, section 2.2
_WORD = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    [
        f"(?:{_WORD}:){{7}}{_WORD}",
        f"(?:{_WORD}:){{1,7}}:",
        *(f"(?:{_WORD}:){{1,{7 - n}}}(?::{_WORD}){{1,{n}}}" for n in range(1, 7)),
        f":(?::{_WORD}){{1,7}}",
        "::",
    ]
)
# RFC 3986, appendix A
_PLAIN = "[a-zA-Z0-9._~!$&'()*+,;=-]"
_CODED = "%[0-9a-fA-F]{2}"
_USER = f"(?:{_PLAIN}|:|{_CODED})*"
_STEP = f"(?:{_PLAIN}|[:@]|{_CODED})"
_HOST = rf"(?:\[(?:{_IPV6})\]|(?:{_PLAIN}|{_CODED})*)"
_AUTHORITY = f"//(?:{_USER}@)?{_HOST}(?::[0-9]*)?(?:/{_STEP}*)*"
_PATH = f"/?{_STEP}+(?:/{_STEP}*)*"
_REST = f"(?:{_PLAIN}|[:@/?]|{_CODED})*"

EXACT = {"date": _DATE, "time": _TIME, "date-time": f"{_DATE}T{_TIME}"}
"""Format -> expression that is used in JSON strings too."""
PATTERNS = {
    **EXACT,
    "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|[0-9]+W)",
    "email": rf"{_ATOM}(?:[.]{_ATOM})*@(?:{_DOMAIN}|\[{_IPV4}\])",
    "hostname": _DOMAIN,
    "ipv4": _IPV4,
    "ipv6": f"(?:{_IPV6})",
    "uri": rf"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{_AUTHORITY}|{_PATH}|/)?(?:[?]{_REST})?(?:#{_REST})?",
    "uuid": "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
}
"""Format -> expression for the whole text, in the syntax of both ECMA-262 and Rust."""
