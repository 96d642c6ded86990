"""Secrets out of what is recorded: by their known form, by the name they are given under, and by their known value.

A secret becomes ``***``; all that is around it stays. What no rule knows stays too: see docs/explanation/security.md.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MASK = "***"
KNOWN_CHARS_MIN = 8

_PASSWORDS = frozenset({"password", "passwd", "passphrase", "passcode", "pwd", "pgpassword", "sshpass"})
_WORDS = _PASSWORDS | {"secret", "secrets", "token", "apikey", "credential", "credentials", "authorization", "invite"}
_KEYS = frozenset({"api", "access", "secret", "private", "auth", "account", "encryption", "signing", "shared"})
_PASS = frozenset({"db", "user", "smtp", "ftp", "root", "admin", "mysql", "redis", "login", "key"})
# A tokenizer's special tokens, and tokens that are counted, are no secrets.
_TOKENS = "bos cls end eoa eos eot first image last mask next no num pad per prefix sep special start stop suffix unk"
_NO_SECRETS = frozenset(_TOKENS.split())
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Rule:
    """A regular expression that is compiled when it is first needed: most programs need few of these, or none."""

    def __init__(self, text: str, flags: re.RegexFlag = re.NOFLAG) -> None:
        self._text = text
        self._flags = flags

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return it compiled."""
        return re.compile(self._text, self._flags)


# Each has a form that nothing else has.
_FORMS = (
    r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ABIA|ACCA)[A-Z0-9]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt|oas)-[A-Za-z0-9_=.-]{16,}",
    r"\b(?:hf|api_org)_[A-Za-z]{30,}",
    r"\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}",
    r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\bxapp-[0-9]-[A-Za-z0-9-]{10,}",
    r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{16,}",
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"\bpypi-AgE[A-Za-z0-9_-]{16,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\bya29\.[A-Za-z0-9_-]{20,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
    r"\bdapi[0-9a-f]{32}\b",
    r"\bdop_v1_[0-9a-f]{64}\b",
    r"\bhvs\.[A-Za-z0-9_-]{24,}",
    r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}",
)
_FORM = Rule("|".join(_FORMS))
_PEM = Rule(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?"
    r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_BEARER = Rule(r"\b((?:Bearer|Token)\s+)(?=[^\s\"']*[0-9])[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_HEADER = Rule(
    r"""(\b(?:proxy-authorization|authorization|x-api-key|x-auth-token|private-token|cookie|set-cookie)["']?\s*[:=]\s*["']?)"""
    r"""[^"'\r\n]+""",
    re.IGNORECASE,
)
_NETRC = Rule(r"(\blogin\s+\S+\s+password\s+|^[+ -]?\s*password[ \t]+)(?![=:])\S+(?=\s*$)", re.MULTILINE)
_CURL = Rule(r"(\b(?:curl|wget|https?|xh)\b[^\n|;&]*?\s(?:-u|--user|--auth|-a)[= ]\s*[\"']?)[^\s:\"']*:[^\s\"']+")
# An address up to what ends it in a text.
_ADDRESS = Rule(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s\"'<>`]+)")
_HOST = Rule(r"localhost|\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)+\.?|[\w.-]+:[0-9]+")
_QUERY = Rule(
    r"(?:^|[&;?])(?:[^=&;]*(?:token|secret|passw|pwd|credential|api[-_]?key|access[-_]?key|signature)[^=&;]*|sig|auth|key)=",
    re.IGNORECASE,
)
# NAME=VALUE, NAME: VALUE, "NAME": "VALUE", --NAME VALUE in a text.
_GIVEN = Rule(
    r"""(?P<option>(?<![\w-])--)?(?P<name>\b(?=[\w.-]{0,60}?(?:pass|pwd|secret|token|key|credential|authorization|invite))"""
    r"""[A-Za-z_][\w.-]{2,64})(?P<mark>["']?(?:\s*(?::=|=>|=|:)\s*|(?(option)[ ]+|(?!)))\\?)"""
    r"""(?:(?P<quote>["'])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?:(?P=quote))|(?P<bare>[^\s"',;&)\]}]+))""",
    re.IGNORECASE,
)
# A text with none of these in it, in lower case, has no secret that a rule knows: so most texts cost microseconds.
_HINT = """
pass pwd secret token key credential authorization cookie bearer invite akia asia agpa aida aroa anpa abia acca ghp_
gho_ ghu_ ghs_ ghr_ github_pat glpat- gldt- glrt- glcbt- glptt- glft- glsoat- glagent- glimt- gloas- hf_ api_org sk- sk_
rk_ xox xapp- hooks.slack npm_ pypi- eyj aiza ya29 sg. dckr dapi dop_v1 hvs. curl wget http xh ://
"""
_HINTS = tuple(_HINT.split())
LINE_CHARS_MAX = 4096
SHORT_CHARS_MAX = 24
"""A text up to this length is mostly a name, and met again at the next record."""
_PLACEHOLDER = Rule(
    r"\*+|<.*>|\[.*\]|\$\{.*\}|\$\(.*\)|\$\w+|\{.*\}|%[sr]|%\(.*\)s|\.\.\.|x+|None|null|true|false", re.IGNORECASE
)
_NUMBER = Rule(r"[+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_CODE = Rule(r"[A-Za-z_][A-Za-z_]*(?:\.[A-Za-z_]\w*)*[(\[].*|(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Za-z_]+")


@functools.lru_cache(4096)
def names_secret(name: str) -> bool:
    """Tell whether what is given under a name is a secret: its last words say so, as in ``--hub-token``, `API_KEY`.

    `token_file`, `max_tokens`, `eos_token` and `primary_key` name none.
    """
    words = [part.lower() for part in _PARTS.findall(name)]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token":
        return before not in _NO_SECRETS
    if last == "key":
        return before in _KEYS
    if last == "pass":
        return before in _PASS
    return last in _WORDS or last.endswith(("password", "apikey", "passwd"))


def known_secrets(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of those environment variables whose names say that they are secrets.

    Short ones, numbers, paths and single words of letters are passed over: they stand in many a text by chance.
    """
    return tuple(
        value
        for name, value in variables.items()
        if len(value) >= KNOWN_CHARS_MIN
        and names_secret(name)
        and value[0] not in "/~."
        and not (value.isalpha() and (value.islower() or value.isupper() or value.istitle()))
        and not _NUMBER.pattern.fullmatch(value)
    )


class Redactor:
    """Takes secrets out of texts, command lines and values. ``known`` are values that are secrets wherever they stand.

    Of these, those shorter than eight characters are not looked for: they would match by chance.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({value for value in known if len(value) >= KNOWN_CHARS_MIN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        """Return a text without the secrets in it."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        hints = _hints_in_short(text) if len(text) <= SHORT_CHARS_MAX else _hints_in(text)
        if not hints:
            return text
        if "private key" in text.lower():
            text = _PEM.pattern.sub(_masked_lines, text)
        if len(text) <= LINE_CHARS_MAX:
            return _line(text)
        # Most lines of a long text, such as a diff, have nothing to look for.
        lines = text.split("\n")
        return "\n".join(_line(line) if any(map(line.lower().__contains__, hints)) else line for line in lines)

    def words(self, words: Sequence[str]) -> list[str]:
        """Return a command line's words without secrets: also ``--password WORD`` and ``-u user:WORD`` of `curl`."""
        found: list[str] = []
        program = ""
        option = ""
        for word in words:
            if program in _USERS and option in ("-u", "--user", "--auth", "-a") and ":" in word:
                found.append(f"{word.partition(':')[0]}:{MASK}")
            elif program == "sshpass" and option == "-p":
                found.append(MASK)
            elif program.startswith("mysql") and re.match(r"-p.", word):
                found.append(f"-p{MASK}")
            elif option.startswith("-") and "=" not in option and names_secret(option) and not word.startswith("--"):
                found.append(MASK)
            else:
                found.append(self._word(word))
            option = word
            name = word.rpartition("/")[2]
            if name in _USERS or name == "sshpass" or name.startswith("mysql"):
                program = name
        return found

    def _word(self, word: str) -> str:
        name, mark, value = word.partition("=")
        if (
            mark
            and value
            and re.fullmatch(r"[-+~]*[\w./-]+", name)
            and names_secret(name)
            and not _NUMBER.pattern.fullmatch(value)
        ):
            return f"{name}={MASK}"
        return self.text(word)

    def value(self, value: Any, name: str = "") -> Any:
        """Return a plain value (as JSON has them) without secrets; ``name`` is what it is given under.

        Digests of objects (``{"$object":…}``) stay as they are.
        """
        if type(value) is float:
            return value
        if type(value) is int:
            return MASK if name and _names_password(name) else value
        if isinstance(value, str):
            return MASK if value and name and names_secret(name) and not _special(value) else self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item, key) for key, item in value.items()}
        if isinstance(value, list | tuple):
            if value and not names_secret(name) and all(isinstance(item, str) for item in value):
                return self.words(value)  # it may be a command line
            return [self.value(item, name) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and name and _names_password(name):
            return MASK
        return value


def _hints_in(text: str) -> list[str]:
    low = text.lower()
    return [hint for hint in _HINTS if hint in low]


_hints_in_short = functools.lru_cache(1024)(_hints_in)

_USERS = frozenset({"curl", "wget", "http", "https", "xh"})


def _line(text: str) -> str:
    text = _FORM.pattern.sub(MASK, text)
    text = _ADDRESS.pattern.sub(_masked_address, text)
    for rule in (_HEADER, _BEARER, _NETRC, _CURL):
        text = rule.pattern.sub(rf"\1{MASK}", text)
    return _GIVEN.pattern.sub(_masked_given, text)


def _special(value: str) -> bool:
    """Tell whether a value stands for something else, such as ``<pad>`` or ``${oc.env:TOKEN}``."""
    return _PLACEHOLDER.pattern.fullmatch(value) is not None


def _names_password(name: str) -> bool:
    low = name.lower()
    if "pass" not in low and "pwd" not in low:  # each of them holds one of these, and most names neither
        return False
    words = [part.lower() for part in _PARTS.findall(name)]
    return bool(words) and words[-1] in _PASSWORDS


def _masked_lines(match: re.Match[str]) -> str:
    """Return a mask with as many lines: each line of a diff keeps its first character."""
    first, *others = match.group().split("\n")
    del first
    return "\n".join([MASK, *(f"{line[:1] if line[:1] in '+- ' else ''}{MASK}" for line in others)])


def _masked_address(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    # A password may hold a '/', '?', '#' or '@': then what stands where the host should be is none.
    odd = "@" in rest[len(authority) :] and _HOST.pattern.fullmatch(host) is None and ":" in authority
    cut = rest.rfind("@") if odd else authority.rfind("@")
    if cut >= 0:
        user = rest[:cut]
        open_user = ":" not in user and not scheme.lower().startswith("http")
        rest = rest if open_user else MASK + rest[cut:]
    place, mark, query = rest.partition("?")
    if mark and _QUERY.pattern.search(query):
        rest = f"{place}?{MASK}"
    return scheme + rest


def _masked_given(match: re.Match[str]) -> str:
    name, quoted, bare = match["name"], match["quoted"], match["bare"]
    value = quoted if quoted is not None else bare
    if not value or MASK in value or not names_secret(name) or _special(value):
        return match.group()
    prose = match["mark"] == ": " and len(value) < KNOWN_CHARS_MIN and name.lower() == "token"
    if prose or (quoted is None and _plain(name, value, tight=match["mark"] == "=", option=bool(match["option"]))):
        return match.group()
    start = match.start("quoted" if quoted is not None else "bare") - match.start()
    end = match.end("quoted" if quoted is not None else "bare") - match.start()
    return match.group()[:start] + MASK + match.group()[end:]


def _plain(name: str, value: str, *, tight: bool, option: bool) -> bool:
    """Tell whether an unquoted value is a number, a word of a sentence or an expression of code, and no secret."""
    if _NUMBER.pattern.fullmatch(value):
        return not _names_password(name)
    if option or (tight and name.isupper()):
        return False
    return _CODE.pattern.fullmatch(value) is not None or (not tight and len(value) < 6)
